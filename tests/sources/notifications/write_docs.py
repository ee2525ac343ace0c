"""Writes the table of docs/notifications.md anew, from the definitions that ship."""

from pathlib import Path

from nephoscope.settings import shipped
from sources.notifications.definitions import load_meters

DOCS = Path(__file__).parents[3] / "docs/notifications.md"
BUILT_IN = [
    ("`hardware.ipmi.*` (Ironic)", "hardware.ipmi.{temperature,current,fan,voltage}", "gauge", "C, W or A, RPM, V"),
    ("`metering`, `telemetry.polling`", "the samples that they hold", "as they come", "as they come"),
]


def table():
    """The rows: event types, meter, type, unit."""
    rows = [
        (
            "<br>".join(f"`{pattern}`" for pattern in d.event_types.patterns).replace("|", "\\|"),
            f"`{d.text}`" if d.name.paths else d.text,
            str(d.type.constant),
            "of the notification" if d.unit.paths else str(d.unit.constant),
        )
        for d in load_meters([shipped("meters.yaml")])
    ]
    lines = ["| event type | meter | type | unit |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in [*rows, *BUILT_IN]]) + "\n"


def written():
    """The whole page."""
    text = DOCS.read_text()
    head = text[: text.index("## Which notification makes which meters")]
    said = text[len(head) :].split("\n\n")[:2]
    return head + "\n\n".join(said) + "\n\n" + table()


if __name__ == "__main__":
    DOCS.write_text(written())
