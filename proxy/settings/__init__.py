"""Settings: YAML, environment and command line into one checked `Settings`, with the origin of every value."""

from __future__ import annotations

from proxy.settings.environ import process_environ
from proxy.settings.load import Loaded, load
from proxy.settings.model import AccessLog, Admin, Listen, MaxTokens, Settings, SimpleChat
from proxy.settings.problems import ConfigError, Kind, Origin, Problem
from proxy.settings.schema import json_schema

__all__ = [
    "AccessLog",
    "Admin",
    "ConfigError",
    "Kind",
    "Listen",
    "Loaded",
    "MaxTokens",
    "Origin",
    "Problem",
    "Settings",
    "SimpleChat",
    "json_schema",
    "load",
    "process_environ",
]
