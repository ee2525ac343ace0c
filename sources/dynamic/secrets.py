"""References to secrets in definitions, and keeping what they stand for out of messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from nephoscope.publishers import referenced
from sources.pollster import PermanentError

_REFERENCE: Final = re.compile(r"\$\{(?:env|file):[^}]*\}")
HIDDEN: Final = "***"
_TELLING: Final = re.compile(r"auth|token|cookie|secret|key|password", re.IGNORECASE)
"""Headers of these names hold a secret, whether it stands there plainly or not."""


def wrong_reference(text: str) -> bool:
    """Whether there is something in a text that looks like a reference and is none."""
    return "${" in _REFERENCE.sub("", text)


def is_referenced(text: str) -> bool:
    """Whether a text has a reference in it."""
    return _REFERENCE.search(text) is not None


def resolve(text: str) -> str:
    """The text with its references replaced. PermanentError where one cannot be."""
    try:
        return referenced(text)
    except ValueError as error:
        raise PermanentError(str(error)) from None


def is_telling(header: str) -> bool:
    """Whether a header of this name holds a secret."""
    return _TELLING.search(header) is not None


def values_of(text: str) -> list[str]:
    """What the references of a text stand for."""
    return [resolve(match) for match in _REFERENCE.findall(text)]


def hide(text: str, secrets: Iterable[str]) -> str:
    """A message without the secrets, wherever they came from."""
    for secret in sorted(secrets, key=len, reverse=True):
        if secret:
            text = text.replace(secret, HIDDEN)
    return text


def shown(url: str) -> str:
    """A URL as it may be shown: without references, user, password and query."""
    url = _REFERENCE.sub("…", url).partition("#")[0].partition("?")[0]
    return re.sub(r"(?<=//)[^/]*@", "", url)
