"""The registry: lazy, by name or scheme, with messages that say what to do."""

from importlib.metadata import EntryPoint

import pytest

from nephoscope import registry
from nephoscope.errors import ConfigError, MissingExtra


@pytest.fixture
def group(monkeypatch, tmp_path):
    """A group of parts as a third party might declare them."""
    (tmp_path / "odd_part.py").write_text("import no_such_client\n")
    (tmp_path / "good_part.py").write_text("class Part: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = {
        "pigeon": EntryPoint("pigeon", "good_part:Part", "g"),
        "needy": EntryPoint("needy", "odd_part:Part [birds]", "g"),
        "gone": EntryPoint("gone", "no_such_part:Part [birds]", "g"),
        "postgresql": EntryPoint("postgresql", "good_part:Part", "g"),
    }
    monkeypatch.setattr(registry, "_group", lambda group: points)
    registry.load.cache_clear()
    yield "g"
    registry.load.cache_clear()


def test_names_load_nothing(group):
    assert registry.names(group) == ("gone", "needy", "pigeon", "postgresql")


def test_a_part_is_loaded_by_name(group):
    assert registry.load(group, "pigeon").__name__ == "Part"


def test_an_unknown_name_brings_the_nearest(group):
    with pytest.raises(ConfigError, match="did you mean 'pigeon'"):
        registry.load(group, "pidgeon")


def test_a_missing_client_names_the_extra(group):
    with pytest.raises(MissingExtra, match=r"nephoscope\[birds\]"):
        registry.load(group, "needy")


def test_a_missing_module_of_the_part_itself_is_no_missing_extra(group):
    with pytest.raises(ModuleNotFoundError, match="no_such_part"):
        registry.load(group, "gone")


def test_a_url_is_served_by_its_scheme_without_the_driver(group):
    assert registry.load_for(group, "postgresql+psycopg://u@h/d").__name__ == "Part"
    assert registry.scheme("test") == "test"


def test_the_extra_of_a_part(group):
    assert registry.extra_of(group, "needy") == "birds"
    assert registry.extra_of(group, "pigeon") == ""
