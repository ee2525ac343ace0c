"""Writes docs/meters.md anew, from the code and the definitions that ship: ``./justw docs-meters``."""

from pathlib import Path

from nephoscope.cli.known import known_meters
from nephoscope.pipeline import load_pipeline
from nephoscope.registry import PUBLISHER, names
from nephoscope.settings import load_settings, shipped

DOCS = Path(__file__).parents[2] / "docs/meters.md"
HEAD = """\
# Meters

Every meter that Nephoscope ships: what polls it, of which notification it is made, or what conf/pipeline.yaml computes it of. Written by `./justw docs-meters`
from the code; `nephoscope meters --known` shows the same of an installation, with its own pipeline, definitions and dynamic pollsters.
`nephoscope meters` shows what is stored.

The resource of a polled meter is said in words; that of a notified one is the member of the notification that names it. In braces stands what is read: a
name that ends in it stands for many meters. The namespace is the agents' (`nephoscope agent --namespace`).

| meter | type | unit | resource | source | namespace | what |
|---|---|---|---|---|---|---|
"""


def written():
    """The whole page."""
    settings = load_settings(shipped("nephoscope.yaml"), environment={})
    pipeline = load_pipeline(shipped("pipeline.yaml"), publisher_schemes=names(PUBLISHER))
    return HEAD + "".join(f"| {' | '.join(map(_cell, meter))} |\n" for meter in known_meters(settings, pipeline))


def _cell(text):
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "'")


if __name__ == "__main__":
    DOCS.write_text(written())
