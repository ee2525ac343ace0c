"""What is shipped: five packages and the YAML of conf, nothing else; and everything that the entry points name."""

import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from nephoscope import registry

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"nephoscope", "flows", "sources", "sinks", "conf"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Every file name in the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # A copy: setuptools writes build/ and *.egg-info next to what it builds.
    for item in ("pyproject.toml", "README.md", "LICENSE", *PACKAGES, "tests", "bench"):
        if (ROOT / item).exists():
            subprocess.run(["cp", "-R", str(ROOT / item), str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "-w", str(folder), str(source)], check=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_only_the_packages_are_shipped(wheel):
    tops = {name.partition("/")[0] for name in wheel}

    assert {t for t in tops if not t.endswith(".dist-info")} == PACKAGES


def test_every_module_is_shipped(wheel):
    expected = {p.relative_to(ROOT).as_posix() for room in PACKAGES for p in (ROOT / room).rglob("*.py")}

    assert expected - set(wheel) == set()


def test_the_yaml_of_conf_is_shipped(wheel):
    expected = {f"conf/{p.name}" for p in (ROOT / "conf").glob("*.yaml")}

    assert "conf/nephoscope.yaml" in expected
    assert expected - set(wheel) == set()


def test_the_licence_and_the_type_marker_are_shipped(wheel):
    assert "nephoscope/py.typed" in wheel
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_no_extra_is_declared_in_vain():
    """An extra is there because a file of the house imports what it brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = [p for group in project["entry-points"].values() for p in group.values()]

    for extra in project.get("optional-dependencies", {}):
        assert any(f"[{extra}]" in p for p in points), extra


def _entry_points():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for group, points in project["entry-points"].items():
        yield from ((group, name, target) for name, target in points.items())


@pytest.mark.parametrize("group,name,target", list(_entry_points()))
def test_an_entry_point_leads_somewhere(group, name, target):
    module, _, attribute = target.partition(" ")[0].partition(":")

    assert group in registry.NOUNS
    assert importlib.util.find_spec(module) is not None
    assert hasattr(importlib.import_module(module), attribute)
