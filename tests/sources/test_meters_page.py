"""docs/meters.md is what the code says."""

from tests.sources.write_meters import DOCS, written


def test_it_is_current():
    assert DOCS.read_text(encoding="utf-8") == written(), "./justw docs-meters writes it"
