"""Options that several commands share, and the settings that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nephoscope.errors import ConfigError, Problem
from nephoscope.settings import Settings, load_settings

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Settings file (else $NEPHOSCOPE_CONFIG, ./nephoscope.yaml, /etc/nephoscope/).",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="NAME=VALUE", help="Override a setting, e.g. --set lateness=60.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
Namespaces = Annotated[
    list[str] | None,
    typer.Option(
        "--namespace", "-n", help="Only pollsters of this namespace (compute, central, …).", show_default=False
    ),
]


def flags_of(overrides: list[str] | None) -> dict[str, Any]:
    """The settings that --set gives. ConfigError where one has no '='."""
    flags: dict[str, Any] = {}
    problems = []
    for item in overrides or []:
        name, sign, value = item.partition("=")
        if not sign:
            problems.append(Problem(f"--set takes NAME=VALUE, not {item!r}", file="command line"))
        flags[name.strip()] = value
    if problems:
        raise ConfigError(problems)
    return flags


def settings_of(config: Path | None, overrides: list[str] | None, **flags: Any) -> Settings:
    """The settings for a command; `flags` are its own options that stand for a setting (None: not given)."""
    return load_settings(config, flags=flags_of(overrides) | {k: v for k, v in flags.items() if v is not None})


def arguments_of(config: Path | None, overrides: list[str] | None) -> list[str]:
    """The same options again, for a child process."""
    return [*(["--config", str(config)] if config else []), *(a for o in overrides or () for a in ("--set", o))]
