"""The shelf of stages: one file a stage, each with its config model. ``STAGES`` names them all."""

from __future__ import annotations

from proxy.core.stage import Stage
from proxy.stages.ip_allowlist import IPAllowlist, IPAllowlistConfig
from proxy.stages.key import Key, KeyConfig
from proxy.stages.limit import Limit, LimitConfig
from proxy.stages.model import Services, StageConfig
from proxy.stages.upstream import Upstream, UpstreamConfig

__all__ = ["CONFIGS", "STAGES", "Services", "StageConfig", "build"]

# In the usual order; an operator's chain may have any other that `core.chain.check_order` accepts.
STAGES: dict[str, type[IPAllowlist | Limit | Key | Upstream]] = {
    "ip_allowlist": IPAllowlist,  # who may speak at all: cheapest, and it must cost the others nothing
    "limit": Limit,  # how often
    "key": Key,  # with whose key
    "upstream": Upstream,  # to where: forwards, so it is always last
}

CONFIGS: dict[str, type[StageConfig]] = {
    "ip_allowlist": IPAllowlistConfig,
    "limit": LimitConfig,
    "key": KeyConfig,
    "upstream": UpstreamConfig,
}


def build(name: str, config: StageConfig, services: Services) -> Stage:
    """Make the stage of this name from its config; the config's class decides the stage's type."""
    for type_name, config_class in CONFIGS.items():
        if type(config) is config_class:
            stage: type = STAGES[type_name]
            made = stage(name, config, services)
            assert isinstance(made, Stage)
            return made
    raise TypeError(f"no stage takes {type(config).__name__}")
