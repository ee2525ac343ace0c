"""DB2 without a server: every statement and table of the store in the dialect of ibm_db_sa, and what its URL may say."""

import importlib
import pkgutil

import pytest
import sqlalchemy as sa

from nephoscope import registry
from nephoscope.errors import ConfigError, Unavailable
from sinks import sql
from sinks.sql import bulk, expire, schema
from sinks.sql.making import creation
from sinks.sql.statements import Lookup, Statement
from sinks.sql.words import DB2, Merge

pytest.importorskip("ibm_db_sa")
db2 = importlib.import_module("sinks.sql.db2")

OTHERS = {"sinks.sql.sqlite", "sinks.sql.postgresql", "sinks.sql.mysql", "sinks.sql.packed"}
"""Modules of other backends; statements that take arrays are PostgreSQL's, wherever they stand."""


def statements():
    """(where, statement) of all that the store runs on DB2."""
    for module in pkgutil.walk_packages(sql.__path__, "sinks.sql."):
        if module.name in OTHERS or "migrations" in module.name:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            yield from found(f"{module.name}.{name}", value)


def found(where, value):
    if isinstance(value, Statement):
        if "unnest" not in str(value._others.get(DB2, value._statement).compile()) or DB2 in value._others:
            yield where, value
    elif isinstance(value, bulk.Insert):
        yield where, value.statement
    elif isinstance(value, Lookup):
        yield where, value._by_size[8]
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from found(f"{where}[{key}]", one)
    elif isinstance(value, tuple) and not hasattr(value, "_fields"):
        for number, one in enumerate(value):
            yield from found(f"{where}[{number}]", one)


ALL = dict(statements())


def test_all_of_the_store_s_statements_are_looked_at():
    """As many as a reader counts, so that the search for them cannot quietly find none."""
    assert len(ALL) > 60
    assert {w.partition(".")[2].partition(".")[2].partition(".")[0] for w in ALL} >= {
        "catalogue", "db2", "ends", "events", "expire", "numbers", "plan", "query", "scan", "servers", "write"
    }  # fmt: skip


@pytest.mark.parametrize("where", ALL)
def test_a_statement_is_db2_s(where):
    """Parameters by position, and no word that DB2 does not know."""
    compiled = ALL[where].on(DB2)

    assert compiled.sql.count("?") == len(compiled.names)
    for word in (
        "ON CONFLICT",
        "ON DUPLICATE",
        "IGNORE INTO",
        "::",
        "POSTCOMPILE",
        " & ",
        "x''",
        "RECURSIVE",
        "unnest",
    ):
        assert word not in compiled.sql
    assert "(record.span, record.resource" not in compiled.sql, "DB2 orders no rows of values"


def test_tables_keep_texts_as_bytes_of_a_length_that_db2_can_index():
    made = dict(creation(DB2))

    assert "name VARBINARY(1024) NOT NULL" in made["resource"]
    assert "fields BLOB(1073741824) NOT NULL" in made["record"]
    assert "PRIMARY KEY (span, resource, place, tie)" in made["record"]
    assert "PARTITION" not in made["record"]
    assert "tie" in made
    assert "record_tie" not in made
    assert not any("CLOB" in statement for statement in made.values())


def test_an_upsert_is_a_merge_that_knows_the_type_of_each_parameter():
    sql_ = Statement(Merge(schema.series, "era")).on(DB2)

    assert sql_.sql == (
        "MERGE INTO series USING (VALUES (CAST(? AS INT), CAST(? AS INT), CAST(? AS BIGINT))) AS given (resource, kind, era)"
        " ON (series.resource = given.resource AND series.kind = given.kind)"
        " WHEN MATCHED AND series.era < given.era THEN UPDATE SET era = given.era"
        " WHEN NOT MATCHED THEN INSERT (resource, kind, era) VALUES (given.resource, given.kind, given.era) ELSE IGNORE"
    )
    assert sql_.names == ("resource", "kind", "era")
    assert "WHEN MATCHED" not in Statement(Merge(schema.record)).on(DB2).sql


def test_the_order_of_keys_that_is_spelt_out_is_that_of_tuples():
    """On SQLite, which has both."""
    engine = sa.create_engine("sqlite://")
    rows = sa.Table("k", sa.MetaData(), *(sa.Column(name, sa.Integer) for name in "abc"))
    keys = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    bounds = [sa.bindparam(f"at_{name}", type_=sa.Integer()) for name in "abc"]
    with engine.connect() as connection:
        rows.create(connection)
        connection.execute(sa.insert(rows), [dict(zip("abc", key, strict=True)) for key in keys])
        for after in (True, False):
            order = expire.KeyOrder([rows.c.a, rows.c.b, rows.c.c], bounds, after=after)
            for bound in keys:
                given = {f"at_{n}": v for n, v in zip("abc", bound, strict=True)}
                spelt = connection.execute(sa.select(rows).where(order.spelt), given).fetchall()
                plain = connection.execute(sa.select(rows).where(order.plain), given).fetchall()
                assert sorted(spelt) == sorted(plain) == [k for k in keys if (k >= bound) == after]


def test_a_url_goes_to_the_driver_as_ibm_db_sa_says_it():
    backend = db2.DB2(sa.make_url("db2://nepho:p%40ss@db.example:50000/METERS?Security=SSL"))

    (dsn, *_) = backend._arguments
    assert set(dsn.strip(";").split(";")) >= {
        "DATABASE=METERS", "HOSTNAME=db.example", "PORT=50000", "UID=nepho", "PWD=p@ss", "Security=SSL"
    }  # fmt: skip
    assert "p@ss" not in backend.place
    assert "p%40ss" not in backend.place


def test_a_url_cannot_smuggle_in_an_option():
    for bad in ("db2://u:a;HOSTNAME=evil@h:1/d", "db2://u:p@h:1/d;PROTOCOL=x", "db2://u:p@h/d?Security=SSL;x=y"):
        with pytest.raises(ConfigError) as refused:
            registry.load_for(registry.STORE, bad)(bad)
        assert "evil" not in str(refused.value)
    with pytest.raises(ConfigError, match="unknown option 'Securitee'"):
        registry.load_for(registry.STORE, "db2://u:p@h:1/d?Securitee=SSL")("db2://u:p@h:1/d?Securitee=SSL")


def test_nobody_at_the_address_is_unavailable_and_names_no_password():
    url = "db2://nepho:secret-word@127.0.0.1:1/d"
    with pytest.raises(Unavailable) as away:
        registry.load_for(registry.STORE, url)(url)

    assert "secret-word" not in str(away.value)


def test_what_errors_mean():
    import ibm_db_dbi

    backend = db2.DB2(sa.make_url("db2://u:p@h:1/d"))
    for text, writing, kind in (
        ("SQL0911N … SQLSTATE=40001 SQLCODE=-911", True, "Unavailable"),
        ("SQL30081N a communication error … SQLSTATE=08001", False, "Unavailable"),
        ("SQL0601N the name is there … SQLSTATE=42710", False, "Unavailable"),
        ("SQL0551N … SQLSTATE=42501", False, "StoreError"),
        ("SQL0551N … SQLSTATE=42501", True, "Unavailable"),
        ("SQL0302N the value is too large … SQLSTATE=22001", True, "StoreError"),
    ):
        with pytest.raises(Exception, match="db2://u") as raised, backend.translated(writing=writing):
            raise ibm_db_dbi.ProgrammingError(text)
        assert type(raised.value).__name__ == kind
    assert backend.transient(ibm_db_dbi.OperationalError("SQLSTATE=40001"))
    assert not backend.transient(ibm_db_dbi.OperationalError("SQLSTATE=42501"))
