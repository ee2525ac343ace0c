"""The settings: conf/nephoscope.yaml, overridden by a file, then by NEPHOSCOPE_… variables, then by flags.

Secrets stand in a file by reference only: ``${env:NAME}`` or ``${file:path}``. What every key means is said, once, in
conf/nephoscope.yaml.
"""

from __future__ import annotations

from nephoscope.settings.loading import ALIASES, FILE_VARIABLE, PLACES, PREFIX, find_file, load_settings, setting_names
from nephoscope.settings.model import Settings, shipped
from nephoscope.settings.sections import KafkaSettings

__all__ = [
    "ALIASES",
    "FILE_VARIABLE",
    "PLACES",
    "PREFIX",
    "KafkaSettings",
    "Settings",
    "find_file",
    "load_settings",
    "setting_names",
    "shipped",
]
