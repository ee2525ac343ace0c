"""The file of hosts (`hardware.hosts`), and the discoveries that read it: `snmp_hosts`, `ipmi_hosts`, `kwapi_hosts`.

A host or URL a line, with options behind it; '#' begins a comment::

    10.0.0.1
    10.0.0.2:1161 credential=rack1
    [2001:db8::1] credential=rack1
    ipmi://operator@10.0.1.2 credential=bmc

It is read again each time, so that hosts come and go without a restart. ``snmp_hosts:///path/of/another/file`` reads another one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from nephoscope.errors import MissingExtra, Problem
from nephoscope.redaction import redacted
from nephoscope.settings.sections import HardwareSettings
from sources.pollster import Discover, PermanentError

_log = logging.getLogger(__name__)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(:\d{1,5})?")
_URL = re.compile(r"[a-z][a-z0-9+]*://\S+", re.IGNORECASE)
_OPTION = re.compile(r"[a-z_]+=\S+")
_told: set[tuple[str, str]] = set()
"""Lines that were complained of: once, not every period."""


class Inventory(NamedTuple):
    """The URLs of a file, each with the number of its line, and what is wrong in it."""

    urls: list[tuple[int, str]]
    problems: list[Problem]


def read(path: Path) -> Inventory:
    """Read a file of hosts. Raises OSError where it cannot be read."""
    urls: list[tuple[int, str]] = []
    problems = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        name, *options = re.sub(r"(^|\s)#.*", "", line).split() or [""]
        if not name:
            continue
        wrong = next((o for o in options if not _OPTION.fullmatch(o)), None)
        if wrong is not None:
            problems.append(Problem("behind the host there may be options: NAME=VALUE", str(path), number))
        elif _URL.fullmatch(name):
            urls.append((number, _with(name, options)))
        elif _HOST.fullmatch(name):
            urls.append((number, _with(f"snmp://{name}", options)))
        else:
            problems.append(Problem("begins with no host, HOST:PORT or URL", str(path), number))
    return Inventory(urls, problems)


def _with(url: str, options: list[str]) -> str:
    if not options:
        return url
    pairs = (option.partition("=") for option in options)
    return url + ("&" if "?" in url else "?") + "&".join(f"{name}={quote(value)}" for name, _, value in pairs)


def discovery(settings: HardwareSettings, scheme: str) -> Discover:
    """The discovery of the hosts of a scheme; its parameter is the path of the file, '' is `hardware.hosts`."""

    def discover(parameter: str = "") -> list[str]:
        path = Path(parameter).expanduser() if parameter else settings.hosts
        if path is None:
            return []
        try:
            found = read(path)
        except OSError as error:
            raise OSError(f"cannot read {path}: {error.strerror}") from None
        for problem in found.problems:
            key = (str(problem), scheme)
            if key not in _told:
                _told.add(key)
                _log.warning("%s; the line is left out", problem)
        return list(dict.fromkeys(url for _, url in found.urls if is_of(url, scheme)))

    return discover


def check(settings: HardwareSettings, scheme: str, parse: Callable[[str], Any]) -> Generator[Problem, None, list[str]]:
    """What is wrong in `hardware.hosts`; returns its URLs of a scheme. `parse` raises PermanentError for one that cannot be used, MissingExtra."""
    if settings.hosts is None:
        return []
    try:
        found = read(settings.hosts)
    except OSError as error:
        yield Problem(f"cannot read {settings.hosts}: {error.strerror}", field="hardware.hosts")
        return []
    if scheme == "snmp":  # Else each system would say it.
        yield from found.problems
    ours = [(number, url) for number, url in found.urls if is_of(url, scheme)]
    missing = None
    for number, url in ours:
        try:
            parse(url)
        except PermanentError as error:
            yield Problem(redacted(str(error)), str(settings.hosts), number)
        except MissingExtra as error:
            missing = error
    if missing is not None:
        yield Problem(str(missing))
    return [url for _, url in ours]


def is_of(url: str, scheme: str) -> bool:
    """Whether a URL is of a scheme; `kwapi` has kwapis as well."""
    return url.partition("://")[0].lower() in {scheme, f"{scheme}s"}
