"""What the URL of a SQL store may say, and the backend that it means."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from nephoscope.errors import ConfigError, MissingExtra, Problem, nearest
from sinks.sql.backend import Backend

_HINTS: Final = {
    "sqlite": "sqlite:////path/to/samples.db",
    "postgresql": "postgresql://user:${env:DB_PASSWORD}@host/database",
    "mysql": "mysql://user:${env:DB_PASSWORD}@host/database",
    "mariadb": "mariadb://user:${env:DB_PASSWORD}@host/database",
    "db2": "db2://user:${env:DB_PASSWORD}@host:50000/database",
}
OPTIONS: Final = {
    "sqlite": ("synchronous",),
    # libpq's own words.
    "postgresql": (
        "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "ssl_min_protocol_version", "channel_binding", "gssencmode",
        "krbsrvname", "target_session_attrs", "load_balance_hosts", "host", "port", "options", "passfile", "service",
    ),
    "mysql": ("ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity", "unix_socket"),
    # As ibm_db_sa has them.
    "db2": ("Security", "SSLServerCertificate", "SSLClientKeystoredb", "SSLClientKeystash", "CurrentSchema"),
}  # fmt: skip
SYNCHRONOUS: Final = ("normal", "full", "off")


def backend_of(url: str) -> Backend:
    """The backend of a URL. ConfigError where it cannot be used, MissingExtra where its driver is not there."""
    parsed = checked(url)
    name = parsed.get_backend_name()
    if name == "sqlite":
        from sinks.sql.sqlite import SQLite

        return SQLite(parsed)
    extra = name if name in {"postgresql", "db2"} else "mysql"
    try:
        if name == "postgresql":
            from sinks.sql.postgresql import PostgreSQL

            return PostgreSQL(parsed)
        if name == "db2":
            from sinks.sql.db2 import DB2

            return DB2(parsed)
        from sinks.sql.mysql import MySQL

        return MySQL(parsed)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"psycopg", "pymysql", "ibm_db", "ibm_db_dbi", "ibm_db_sa"}:
            raise MissingExtra(f"store {name!r}", extra) from error
        raise


def checked(url: str) -> URL:
    """The URL in its parts. ConfigError, which names no secret, for one that cannot be used."""
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError([Problem("the store's URL cannot be read", hint=_HINTS["sqlite"])]) from None
    name = parsed.get_backend_name()
    if name not in _HINTS:
        raise ConfigError([Problem(f"there is no store for {name!r} yet", hint=nearest(name, _HINTS))])
    problems = []
    if not parsed.database or parsed.database == ":memory:":
        what = "a file" if name == "sqlite" else "a database"
        problems.append(Problem(f"the store needs {what}", hint=_HINTS[name]))
    if name == "db2" and not (parsed.host and parsed.username and parsed.password):
        problems.append(Problem("the store's URL names no host, user or password", hint=_HINTS[name]))
    known = OPTIONS["mysql" if name == "mariadb" else name]
    for option, value in parsed.query.items():
        if option not in known:
            problems.append(Problem(f"unknown option {option!r} in the store's URL", hint=nearest(option, known)))
        elif option == "synchronous" and str(value).lower() not in SYNCHRONOUS:
            problems.append(Problem(f"synchronous={value}", hint=f"one of {', '.join(SYNCHRONOUS)}"))
    if problems:
        raise ConfigError(problems)
    return parsed
