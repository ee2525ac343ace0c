"""URLs and texts with URLs in them, as they may be shown: who is spoken to, and no secret.

Whatever logs, prints or stores the URL of a target, or an error that may quote one, passes it through `redacted`. It parses nothing: a URL
that is malformed hides its secrets as well. Where it is in doubt it hides too much.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"
_SECRET_USER: Final = frozenset({"snmp", "kwapi", "kwapis"})
"""Schemes whose URLs name no user: what stands alone before the '@' is the secret (SNMP's community)."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(\S+)")
_SECRET_OPTION = re.compile(
    r"""([?&;,](?:[a-z0-9_.\-]*(?:pass|secret|token|community|credentials|signature|private)[a-z0-9_.\-]*|(?:auth|priv|api|access)?[_\-]?key|sig|pwd)=)
    [^&;\#\s]*""",
    re.IGNORECASE | re.VERBOSE,
)


def redacted(text: str) -> str:
    """The text with the secrets of all URLs in it hidden: passwords, SNMP communities, options such as `token=…`."""
    return _URL.sub(_hide, text) if "://" in text else text


def _hide(match: re.Match[str]) -> str:
    scheme, rest = match.groups()
    if "://" in rest:
        # A discovery's parameter may be a URL itself.
        return f"{scheme}://{_without_options(_URL.sub(_hide, rest))}"
    secret_user = scheme.lower().partition("+")[0] in _SECRET_USER
    # Such a secret may hold '/' and '?', which nobody has encoded.
    end = len(rest) if secret_user else min((i for i in map(rest.find, "/?#") if i >= 0), default=len(rest))
    before, at, host = rest[:end].rpartition("@")
    if at:
        user, colon, _ = before.partition(":")
        if secret_user and not colon:
            before = HIDDEN if before else ""
        elif colon:
            before = f"{user}:{HIDDEN}"
    return f"{scheme}://{_without_options(before + at + host + rest[end:])}"


def _without_options(text: str) -> str:
    return _SECRET_OPTION.sub(rf"\g<1>{HIDDEN}", text)
