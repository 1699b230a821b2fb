"""Tests of the limit stores."""

import pytest

# pytest rewrites assertions of test files only; failures of these would show no values.
pytest.register_assert_rewrite("tests.limits.contract", "tests.core.models")
