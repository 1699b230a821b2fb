"""Settings: YAML, environment and command line into one checked `Settings`, with the origin of every value."""

from __future__ import annotations

from proxy.settings.environ import process_environ
from proxy.settings.listen import Listen, Tls
from proxy.settings.load import Loaded, load
from proxy.settings.model import AccessLog, Admin, Downstream, Drain, MaxTokens, Overload, Settings, SimpleChat
from proxy.settings.problems import ConfigError, Kind, Origin, Problem
from proxy.settings.schema import json_schema

__all__ = [
    "AccessLog",
    "Admin",
    "ConfigError",
    "Downstream",
    "Drain",
    "Kind",
    "Listen",
    "Loaded",
    "MaxTokens",
    "Origin",
    "Overload",
    "Problem",
    "Settings",
    "SimpleChat",
    "Tls",
    "json_schema",
    "load",
    "process_environ",
]
