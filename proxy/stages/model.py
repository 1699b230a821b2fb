"""What every stage's config has in common, and what stages are given to work with."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from proxy.core.stage import Mode
from proxy.limits.store import Clock, LimitStore


class StageConfig(BaseModel):
    """The fields every stage takes; each stage adds its own. Unknown fields are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    type: str | None = Field(
        default=None,
        description="Which stage this is, if its name does not say so: two of one type have two names.",
    )
    mode: Mode = Field(
        default=Mode.ENFORCE,
        strict=False,
        description="enforce = act; shadow = evaluate and log what it would have done, but let it pass; off.",
    )


@dataclass(frozen=True, slots=True)
class Services:
    """What the data plane lends to stages.

    ``clock`` is monotonic, in seconds. ``store`` is where all limits count.
    ``hop_id`` marks this gateway in requests it forwards, so that a loop is seen.
    """

    clock: Clock
    store: LimitStore
    hop_id: bytes
