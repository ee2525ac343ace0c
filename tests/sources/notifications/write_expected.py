"""Writes recorded/notifications-expected.json anew: look through what changed."""

import json
from pathlib import Path

from tests.sources.notifications.made import RECORDED, outcome, shipped_events, shipped_meters

if __name__ == "__main__":
    meters, events = shipped_meters(), shipped_events()
    expected = {m["event_type"]: outcome(m, meters, events) for m in RECORDED}
    place = Path(__file__).parents[2] / "recorded/notifications-expected.json"
    place.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
