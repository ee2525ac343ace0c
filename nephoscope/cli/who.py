"""`who`: where a resource's samples go."""

from __future__ import annotations

from typing import Annotated

import typer

from nephoscope.cli.options import Config, Json, Set, settings_of
from nephoscope.cli.output import rows
from nephoscope.partition import key_hash, partition, slot


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(who)


def who(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET...", help="Resource ids or polled targets.", show_default=False)
    ],
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Say which partition has a resource, and which slot a polled target.

    The partition is that of the topic, of the flow's state and of the message key: the same number on every machine.

    Example: nephoscope who 6a0b7c2e-5f0d-4b57-9a5e-0f5a4f3f2f10
    """
    partitions = settings_of(config, overrides).partitions
    rows(
        ("target", "partition", "slot", "hash"),
        (
            {"target": t, "partition": partition(t, partitions), "slot": slot(t), "hash": f"{key_hash(t):016x}"}
            for t in targets
        ),
        as_json=json,
    )
