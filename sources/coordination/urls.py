"""`coordination.backend_url`: taken apart, checked, and shown without its password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from nephoscope.errors import ConfigError, Problem, nearest
from sources.addresses import place_of

FIELD = "coordination.backend_url"


class Address(NamedTuple):
    """A URL's parts. `options` are those of the query, times in seconds."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    user: str
    password: str
    options: Mapping[str, str]

    @property
    def shown(self) -> str:
        """The URL for people: who is spoken to, and no secret."""
        places = ",".join(place_of(*one) for one in self.hosts)
        return f"{self.scheme}://{places}{self.path}"

    def seconds(self, name: str, default: float) -> float:
        """An option that is a time."""
        return float(self.options.get(name, default))


def parse(url: str, port: int, *, times: tuple[str, ...] = (), words: tuple[str, ...] = (), hosts: int = 1) -> Address:
    """Take a URL apart.

    Args:
        url: SCHEME://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…][/PATH][?OPTION=VALUE&…]
        port: where none is given.
        times: the options that are seconds.
        words: the options that are text.
        hosts: how many there may be.

    Raises:
        ConfigError: with all that is wrong. The URL itself is not in it: it may hold a password.

    """
    problems = []
    scheme, _, rest = url.partition("://")
    split = urlsplit(f"x://{rest}")
    credentials, _, netloc = split.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    places = []
    for place in netloc.split(","):
        host, number = _place(place, port)
        if not host or not number:
            problems.append(Problem("names no HOST:PORT behind '://'", field=FIELD, hint=f"{scheme}://HOST:{port}"))
            break
        places.append((host, number))
    if len(places) > hosts:
        problems.append(Problem(f"{scheme} takes one HOST:PORT, not {len(places)}", field=FIELD))
    options = dict(parse_qsl(split.query, keep_blank_values=True))
    for name, value in options.items():
        if name not in {*times, *words}:
            problems.append(
                Problem(f"{scheme} has no option {name!r}", field=FIELD, hint=nearest(name, (*times, *words)))
            )
        elif name in times and not _is_time(value):
            problems.append(Problem(f"the option {name} is a number of seconds above 0", field=FIELD))
    if problems:
        raise ConfigError(problems)
    return Address(scheme.lower(), tuple(places), split.path.rstrip("/"), unquote(user), unquote(password), options)


def _place(place: str, port: int) -> tuple[str, int]:
    """Host and port; port 0 where it is none."""
    if place.startswith("["):
        host, _, after = place[1:].partition("]")
        number = after[1:] if after else str(port)
    else:
        host, colon, number = place.partition(":")
        number = number if colon else str(port)
    valid = number.isascii() and number.isdigit() and 0 < int(number) < 65536
    return host, int(number) if valid else 0


def _is_time(value: str) -> bool:
    try:
        return 0 < float(value) < 86400
    except ValueError:
        return False
