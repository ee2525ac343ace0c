"""Who may know whom: the import rules of ARCHITECTURE.md, checked over the syntax tree of every module."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("sources", "flows", "sinks")
HOUSE = ("nephoscope", "conf", *ROOMS)

JOINERS = ("nephoscope/registry.py", "nephoscope/cli/", "nephoscope/api/")
"""Where rooms are joined. The registry does so through entry points, so it needs no import either."""

KEEPERS = {
    "bytewax": ("flows/engine.py", "flows/engine_store.py", "flows/pipeline.py"),
    "confluent_kafka": (
        "nephoscope/topics/kafka.py",
        "nephoscope/topics/kafka_reader.py",
        "sinks/kafka.py",
        "sources/notifications/kafka.py",
    ),
    "pika": ("sources/notifications/rabbitmq.py",),
    "jsonpath_ng": ("sources/notifications/paths.py",),
    "typer": ("nephoscope/cli/",),
    "rich": ("nephoscope/cli/",),
    "sqlalchemy": ("sinks/sql/",),
    "pydantic": ("nephoscope/",),
    "psutil": ("sources/host.py", "sources/host_", "sources/agent.py", "nephoscope/cli/"),
    "kazoo": ("sources/",),
    "redis": ("sources/",),
    "pymemcache": ("sources/",),
    "pysnmp": ("sources/snmp",),
    "libvirt": ("sources/libvirt",),
    "openstack": ("sources/openstack/",),
    "keystoneauth1": ("sources/openstack/",),
    "pymongo": ("sinks/mongodb/",),
    "happybase": ("sinks/hbase/",),
    "Hbase_thrift": ("sinks/hbase/",),
    "thriftpy2": ("sinks/hbase/",),
}
"""Clients and engines, and the only files that may import them."""


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every module that is imported, wherever in the file, with its line; importlib.import_module("...") counts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            else:
                yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called.rpartition(".")[2] in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def broken_rules(root: Path) -> list[str]:
    """Every import below root that a rule forbids, as `file:line: why`."""
    found = []
    for path in sorted(p for room in HOUSE for p in (root / room).rglob("*.py")):
        file = path.relative_to(root).as_posix()
        room = file.partition("/")[0]
        for line, module in imports(ast.parse(path.read_text(encoding="utf-8"), file)):
            top = module.partition(".")[0]
            why = ""
            if module.startswith("."):
                why = "imports are absolute"
            elif top in {"tests", "bench"}:
                why = f"{top} is not shipped"
            elif top in HOUSE and not file.startswith(JOINERS):
                if room in ROOMS and top not in {room, "nephoscope"}:
                    why = f"{room} knows nephoscope and itself, not {top}"
                elif room in {"nephoscope", "conf"} and top in ROOMS:
                    why = f"{room} knows no room, and so not {top}"
                elif room == "nephoscope" and module.startswith("nephoscope.cli"):
                    why = "the command line is on top: nothing imports it"
            elif top in KEEPERS and not file.startswith(KEEPERS[top]):
                why = f"only {', '.join(KEEPERS[top])} may import {top}"
            if why:
                found.append(f"{file}:{line}: {module}: {why}")
    return found


def test_nobody_breaks_a_rule():
    assert broken_rules(ROOT) == []


def test_every_distribution_that_is_imported_is_declared():
    """What the code imports stands in pyproject.toml, and what stands there is imported."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [d for ds in project.get("optional-dependencies", {}).values() for d in ds]
    modules = {
        "pyyaml": "yaml",
        "pydantic-settings": "pydantic_settings",
        "openstacksdk": "openstack",
        "libvirt-python": "libvirt",
    }

    def module_of(requirement: str) -> str:
        name = requirement.partition(">")[0].partition("=")[0].partition("[")[0].strip().lower()
        return modules.get(name, name.replace("-", "_"))

    declared = {module_of(d) for d in project["dependencies"]}
    imported = {
        module.partition(".")[0]
        for room in HOUSE
        for path in (ROOT / room).rglob("*.py")
        for _, module in imports(ast.parse(path.read_text(encoding="utf-8")))
    } - set(HOUSE)
    # What happybase makes of its interface when it is imported is part of it; the distributions of pymongo and ibm_db have two modules each.
    foreign = {m for m in imported if m and m not in sys.stdlib_module_names} - {"Hbase_thrift", "bson", "ibm_db_dbi"}

    assert foreign - declared - {module_of(d) for d in optional} == set()
    assert declared - foreign == set()


@pytest.mark.parametrize(
    "file,code,culprit",
    [
        ("flows/rate.py", "import sinks.sql", "flows/rate.py:1"),
        ("flows/rate.py", "from bytewax import operators", "only flows/engine.py"),
        ("sources/host.py", "\n\nfrom flows.plan import Plan", "sources/host.py:3"),
        ("sinks/sql.py", "def late():\n    import sources.host", "sinks/sql.py:2"),
        ("nephoscope/push.py", "import flows", "knows no room"),
        ("nephoscope/push.py", "from nephoscope.cli import main", "on top"),
        ("nephoscope/topics/embedded.py", "import confluent_kafka", "kafka.py"),
        ("nephoscope/push.py", "import importlib\nimportlib.import_module('sinks.sql')", "push.py:2"),
        ("flows/plan.py", "from . import state", "absolute"),
        ("flows/plan.py", "from tests.reference import run", "not shipped"),
        ("sources/kafka.py", "import sqlalchemy", "sinks/sql/"),
    ],
)
def test_the_check_finds_what_is_forbidden(tmp_path, file, code, culprit):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code)

    (found,) = broken_rules(tmp_path)

    assert culprit in found


@pytest.mark.parametrize(
    "file,code",
    [
        ("flows/engine.py", "import bytewax.operators"),
        ("flows/pipeline.py", "from flows.engine import dataflow\nfrom nephoscope.settings import load_settings"),
        ("nephoscope/cli/flow.py", "from flows import engine\nimport typer\nimport sinks.sql"),
        ("nephoscope/topics/kafka.py", "import confluent_kafka"),
        ("sinks/sql/schema.py", "import sqlalchemy as sa\nfrom nephoscope.store import Store"),
        ("sinks/file.py", "import json\nimport flowstone"),
    ],
)
def test_the_check_lets_the_rest_pass(tmp_path, file, code):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code)

    assert broken_rules(tmp_path) == []
