"""Tests of the limit stores."""

import pytest

# pytest rewrites the assertions of test files alone; a failure of this one would show no values.
pytest.register_assert_rewrite("tests.limits.contract")
