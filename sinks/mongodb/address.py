"""The store's URL: what it may say, and a client of it. Nothing of a URL is repeated in an error: it may hold a password."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from pymongo import MongoClient, WriteConcern
from pymongo.errors import ConfigurationError, InvalidURI, PyMongoError
from pymongo.uri_parser import parse_uri

from nephoscope.errors import ConfigError, Problem, Unavailable

Document = dict[str, Any]

HINT: Final = "mongodb://user:${env:DB_PASSWORD}@host1,host2/nephoscope?replicaSet=rs0&tls=true"
DATABASE: Final = "nephoscope"
"""Where the URL names none."""
WRITTEN: Final = WriteConcern(w="majority", j=True, wtimeout=60_000)
"""On disk on most members of a replica set. A single server is a majority of one."""

_DEFAULTS: Final[dict[str, Any]] = {
    # Who cannot be reached is away: the caller tries again. Without a limit a lost connection would hang for ever.
    "serverSelectionTimeoutMS": 5_000,
    "connectTimeoutMS": 5_000,
    "socketTimeoutMS": 120_000,
    "heartbeatFrequencyMS": 2_000,
    "retryWrites": True,
    "appName": "nephoscope",
}


def connect(url: str) -> tuple[MongoClient[Document], str]:
    """(a client with its pool, the name of the database). ConfigError for a URL that cannot be used; Unavailable for an unknown SRV name."""
    problems = _problems(url)
    if problems:
        raise ConfigError(problems)
    try:
        parsed = parse_uri(url, warn=False)
        given = {name.lower() for name in parsed["options"]}
        options = {name: value for name, value in _DEFAULTS.items() if name.lower() not in given}
        client: MongoClient[Document] = MongoClient(url, connect=False, **options)
    except (InvalidURI, ValueError, TypeError, OSError):
        raise ConfigError(
            [Problem("the store's URL cannot be used", hint=f"{HINT}; are all its files there?")]
        ) from None
    except ConfigurationError:
        # All else was looked at: what is left is the name of an SRV record.
        raise Unavailable("MongoDB: the name in the mongodb+srv URL cannot be resolved now") from None
    return client, parsed["database"] or DATABASE


def _problems(url: str) -> list[Problem]:
    plain = url.replace("mongodb+srv://", "mongodb://", 1)
    bare, _, query = plain.partition("?")
    try:
        parsed = parse_uri(bare, warn=False)
    except (PyMongoError, ValueError):
        hint = f"{HINT}; user and password are percent-encoded"
        return [Problem("the store's URL cannot be read", hint=hint)]
    out = []
    if parsed["collection"]:
        out.append(Problem("the store's URL names a collection", hint="a database is enough: it makes its own"))
    for name, value in parse_qsl(query, keep_blank_values=True):
        lower = name.lower()
        # Files and pairs of options are looked at by the client itself.
        if lower in {"tlscertificatekeyfile", "tlscafile", "tlscrlfile", "authmechanismproperties", "authmechanism"}:
            continue
        try:
            parse_uri(f"mongodb://h/?{urlsplit('?' + name).query}={value}", warn=False)
        except (PyMongoError, ValueError):
            out.append(Problem(f"the option {name!r} in the store's URL is unknown or has a bad value"))
        if lower in {"w", "journal", "wtimeoutms"}:
            hint = "leave it out: every write waits for the disks of a majority"
            out.append(Problem(f"the option {name!r} in the store's URL", hint=hint))
        if lower in {"readpreference", "readconcernlevel"}:
            out.append(
                Problem(f"the option {name!r} in the store's URL", hint="leave it out: the store reads its own writes")
            )
    return out
