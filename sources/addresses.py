"""URLs that name one host or API to ask: ``SCHEME://[USER[:PASSWORD]@]HOST[:PORT][/PATH][?OPTION=VALUE&…]``, with a credential of the settings among the options."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from nephoscope.errors import nearest
from nephoscope.settings.sections import CredentialSettings, HardwareSettings
from sources.pollster import PermanentError


class Address(NamedTuple):
    """A URL, taken apart. `user` is None where there is none, `password` '' then; `path` as it stands."""

    host: str
    port: int
    path: str
    user: str | None
    password: str
    options: dict[str, str]

    @property
    def place(self) -> str:
        """HOST:PORT, for messages and for other URLs."""
        return place_of(self.host, self.port)


def place_of(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(url: str, port: int, options: Collection[str]) -> Address | None:
    """Take a URL apart; None where it names no host.

    Args:
        url: of any scheme.
        port: where it names none.
        options: those that there are. PermanentError, which shows no secret, for another.

    """
    try:
        split = urlsplit(url)
        host, number = split.hostname, split.port or port
    except ValueError:
        return None
    if not host:
        return None
    given = dict(parse_qsl(split.query, keep_blank_values=True))
    for name in given:
        if name not in options:
            raise PermanentError(f"there is no option {name!r} ({nearest(name, options)})")
    user = None if split.username is None else unquote(split.username)
    return Address(host, number, split.path, user, unquote(split.password or ""), given)


def credential_of(name: str, settings: HardwareSettings) -> CredentialSettings | None:
    """The credential of that name; of '', that of hosts that name none, which may be none. PermanentError where there is none of the name."""
    found = settings.credential(name)
    if found is None and name:
        hint = nearest(name, settings.credentials) or "hardware.credentials is empty"
        raise PermanentError(f"there is no credential {name!r} ({hint})")
    return found


__all__ = ["Address", "address_of", "credential_of", "place_of"]
