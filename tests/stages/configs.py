"""What a stage's config says about values it does not take."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from proxy.stages import StageConfig


def refusal(config: type[StageConfig], /, **fields: object) -> str:
    """Every complaint about these fields, as ``path: message`` joined with `` | ``. Fails if there is none."""
    with pytest.raises(ValidationError) as caught:
        config.model_validate(fields)
    return " | ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in caught.value.errors())
