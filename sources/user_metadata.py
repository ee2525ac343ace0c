"""What users mark of an instance's metadata, so that it stands in its samples: the keys that begin with ``metering.``, as Ceilometer."""

from __future__ import annotations

from typing import Any, Final

_RESERVED: Final = "metering."
_RESERVED_LENGTH: Final = 256


def user_metadata(given: Any) -> dict[str, Any]:
    """The marked part, keys without the mark; a list of {key, value} is how some services write a mapping."""
    if isinstance(given, list):
        given = {i["key"]: i.get("value") for i in given if isinstance(i, dict) and isinstance(i.get("key"), str)}
    if not isinstance(given, dict):
        return {}
    return {
        name[len(_RESERVED) :].replace(".", "_"): value[:_RESERVED_LENGTH] if isinstance(value, str) else value
        for name, value in given.items()
        if name.startswith(_RESERVED) and len(name) > len(_RESERVED)
    }
