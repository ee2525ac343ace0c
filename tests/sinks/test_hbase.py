"""What is HBase's own: column families that delete, servers that are killed, connections that time out, packs."""

import os
import random
import threading
import time
from contextlib import ExitStack, closing

import happybase
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nephoscope.errors import ConfigError, StoreError, Unavailable
from nephoscope.filters import And, Compare
from nephoscope.lifetimes import LifetimeClass, Lifetimes
from nephoscope.store import ListQuery, StatisticsQuery
from nephoscope.times import NEVER, SECOND, now
from sinks.hbase import HBaseStore, layout, pack
from sinks.hbase.link import Link
from tests.servers.hbase import running
from tests.sinks.made import by_id, polled, rows, samples

START = 1_577_880_000


@pytest.fixture
def servers(hbase):
    return hbase


@pytest.fixture
def prefix():
    return f"own{os.getpid()}_{time.time_ns()}"


@pytest.fixture
def url(servers, prefix):
    return f"hbase://{servers[0]}/{prefix}?admin={servers[1]}&buckets=4"


def cells(servers, prefix):
    host, port = servers[0].split(":")
    connection = happybase.Connection(host, int(port), timeout=60_000)
    found = sum(len(c) for _, c in connection.table(f"{prefix}_sample").scan())
    connection.close()
    return found


def until(holds, patience=60.0):
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# -- times to live


def test_hbase_deletes_what_has_lived_for_its_time_and_a_changed_time_holds_at_once(servers, prefix, url):
    """Seen by a scan that is not the store's: the cells are gone, without an expire. A younger one stays."""
    classes = (LifetimeClass("short", ("cpu",), 30),)
    store = HBaseStore(url, Lifetimes(3600, -1, classes))
    second = now() // SECOND - START
    store.write(rows(polled("cpu", at=second - 24), polled("mem", at=second), polled("mem", at=second - 600)))
    store.write(rows(polled("cpu", at=second + 60), polled("mem", at=second - 4000)))
    assert cells(servers, prefix) == 4

    until(lambda: cells(servers, prefix) == 3)

    assert {(s.name, s.timestamp // SECOND - START - second) for s in store.each_sample()} == {
        ("mem", 0), ("mem", -600), ("cpu", 60)
    }  # fmt: skip
    again = HBaseStore(url, Lifetimes(300, -1, classes))
    until(lambda: cells(servers, prefix) == 2)
    assert {s.timestamp // SECOND - START - second for s in store.each_sample()} == {0, 60}
    assert again.check() == []
    again.close()
    store.close()


def test_without_thrift_2_what_cannot_be_altered_is_said(servers, prefix):
    plain = f"hbase://{servers[0]}/{prefix}?buckets=4"
    store = HBaseStore(plain, Lifetimes(3600))
    assert store.check() == []
    store.close()

    other = HBaseStore(plain, Lifetimes(60))
    problems = {str(p) for p in other.check()}
    other.close()

    assert any(f"alter '{prefix}_sample', {{NAME => 'd', TTL => 60" in p for p in problems)
    with pytest.raises(ConfigError, match="d1"):
        HBaseStore(plain, Lifetimes(3600, -1, (LifetimeClass("a", ("cpu",), 60),)))


# -- where things lie


def test_a_question_about_one_resource_and_meter_reads_its_rows_only(url, monkeypatch):
    store = HBaseStore(url)
    store.write(rows(*(polled(m, f"r{n}", 60 * t) for m in ("cpu", "mem") for n in range(40) for t in range(5))))
    read = []
    whole = Link.rows

    def watching(self, table, keys, columns=None):
        if table == layout.SAMPLE:
            read.extend(keys)
        return whole(self, table, keys, columns)

    monkeypatch.setattr(Link, "rows", watching)
    tree = And((
        Compare("resource", "=", "r7"), Compare("meter", "=", "cpu"),
        Compare("timestamp", ">=", START * SECOND), Compare("timestamp", "<", (START + 3600) * SECOND),
    ))  # fmt: skip
    (one,) = store.statistics(StatisticsQuery(tree))
    calls = []
    call = Link.call
    monkeypatch.setattr(Link, "call", lambda self, act: calls.append(act) or call(self, act))
    assert store.statistics(StatisticsQuery(tree)) == [one]
    store.close()

    # What the era has of the bucket, and the rows themselves.
    assert len(calls) == 2
    read = read[: len(read) // 2]
    assert one.count == 5
    assert {layout.read_sample_row(key)[:2] for key in read} == {
        (layout.bucket_of("r7", 4), layout.identity_key('["openstack","cpu"]'))
    }
    assert len(read) == 1


volumes = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**33), 2**33).map(lambda n: n / 1000)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(volumes, st.sampled_from((NEVER, 0, 2**63 - 1)), st.booleans()), min_size=1), st.booleans())
def test_a_pack_gives_back_every_bit(some, tied):
    n = len(some)
    values = pack.Values(
        np.arange(n) * tied + 1_600_000_000_000_000,
        np.array([v for v, _, _ in some]),
        np.array([m for _, m, _ in some]),
        np.array([late for _, _, late in some]),
        np.arange(16 * n).astype(np.uint8).reshape(n, 16),
    )

    cell = pack.pack(b"k" * 8, b"r" * 16, values, tied=tied)
    head = pack.head(cell)
    got = pack.unpack([cell, cell], head.flags, head.count, np.array([n - 1]))

    assert (head.kind, head.roster, head.count) == (b"k" * 8, b"r" * 16, n)
    assert got.volume.tobytes() == np.repeat(values.volume[-1:], 2).tobytes()
    assert got.time.tolist() == [values.time[-1]] * 2
    assert got.measured.tolist() == [values.measured[-1]] * 2
    assert got.late.tolist() == [values.late[-1]] * 2
    assert not tied or (got.ids == values.ids[-1]).all()


@pytest.mark.parametrize(
    "flags", [pack.MEASURED, pack.MEASURED | pack.PLANES, pack.MEASURED | pack.PLANES | pack.MILLI]
)
def test_a_pack_from_before_short_numbers_is_read(flags):
    volume, measured = np.array([1.5, -0.0, 2.0**60]), np.array([3, NEVER, 5])
    if flags & pack.MILLI:
        volume = np.array([1.5, -0.25, 2.0**20])
    columns = [(volume * 1000).astype("<i4") if flags & pack.MILLI else volume, measured]
    if flags & pack.PLANES:
        columns = [c.view(np.uint8).reshape(3, -1).T for c in columns]
    cell = pack.HEAD.pack(flags, b"k" * 8, b"r" * 16, 3, 7) + b"".join(c.tobytes() for c in columns)

    got = pack.unpack([cell, cell], pack.head(cell).flags, 3, np.array([1, 2]))

    assert got.volume.tobytes() == np.tile(volume[1:], 2).tobytes()
    assert got.measured.tolist() == [NEVER, 5] * 2
    assert got.time.tolist() == [7] * 4


def test_a_pack_takes_the_bytes_that_its_numbers_differ_by():
    """Counters of ten digits that lie near each other, read within two seconds of the period's start: five bytes a sample, not sixteen."""
    volume, measured = 6e12 + np.arange(200.0) * 80, 1_600_000_000_000_000 + np.arange(200) * 10_000
    values = pack.Values(
        np.full(200, measured[0]), volume, measured, np.zeros(200, bool), np.zeros((200, 16), np.uint8)
    )

    assert len(pack.pack(b"k" * 8, b"r" * 16, values, tied=False)) < 200 * 5 + 60


def test_a_cell_that_is_no_pack_is_an_error():
    cell = pack.pack(
        b"k" * 8, b"r" * 16, pack.Values(*map(np.array, ([1], [1.0], [NEVER], [False], [[0] * 16]))), tied=False
    )

    with pytest.raises(StoreError):
        pack.head(cell[:20])
    with pytest.raises(StoreError):
        pack.unpack([cell[:-1]], pack.head(cell).flags, 1)


def test_a_writer_that_remembers_nothing_stores_the_same(url):
    store = HBaseStore(url)
    samples = [polled(f"m{n % 3}", f"r{n % 5}", 60 * (n % 4), volume=float(n)) for n in range(60)]
    for sample in samples:
        store._writer._lists.clear()
        store._writer._numbers.forget()
        store.write(rows(sample))

    first = {s.id: s for s in reversed(samples)}
    assert by_id(store.each_sample()) == by_id(first.values())
    store.close()


def test_a_writer_of_ever_newer_minutes_reads_no_list_until_it_meets_somebody_elses(url, monkeypatch):
    store, other = HBaseStore(url), HBaseStore(url)
    read = []
    whole = Link.rows

    def watching(self, table, keys, columns=None):
        read.extend(layout.minute_of(key) - START // 60 for key in keys if table == layout.COMMIT)
        return whole(self, table, keys, columns)

    def lists_read(minute, volume=1.0):
        read.clear()
        assert store.write(rows(polled(at=60 * minute, volume=volume))).stored == (volume == 1.0)
        return list(read)

    for minute in (3, 6):
        other.write(rows(polled(at=60 * minute)))
    monkeypatch.setattr(Link, "rows", watching)

    # The first look finds nobody; from then on a newer minute is taken for empty; an older one is not.
    assert [lists_read(n) for n in (1, 2, 0, 2.5)] == [[1], [], [0], []]
    # Where that was wrong the list is read after all; so is the next one, as long as somebody was there before.
    assert [lists_read(n, volume) for n, volume in ((3, 2.0), (4, 1.0), (5, 1.0))] == [[3], [4], []]
    assert [lists_read(n, volume) for n, volume in ((6, 2.0), (6, 3.0), (7, 1.0))] == [[6], [], [7]]
    assert {s.volume for s in store.each_sample()} == {1.0}
    store.close()
    other.close()


def test_what_writers_take_for_empty_changes_nothing(url):
    """Of two writers of minutes that come again, or late, in any parts: the first write of each sample wins, and is counted once."""
    stores = [HBaseStore(url), HBaseStore(url)]
    start = 0
    write = st.tuples(st.integers(0, 1), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1))

    @settings(derandomize=True, deadline=None, max_examples=12)
    @given(st.lists(write, min_size=2, max_size=8))
    def holds(writes):
        nonlocal start
        start += 10
        first = {}
        for n, (which, places) in enumerate(writes):
            some = [polled(resource=f"r{r}", at=60 * (start + m), volume=float(n)) for m, r in sorted(places)]
            stored = stores[which].write(rows(*some)).stored
            assert stored == sum(1 for s in some if s.id not in first)
            first = {s.id: s for s in some} | first
        for store in stores:
            tree = Compare("timestamp", ">=", (START + 60 * start) * SECOND)
            assert by_id(store.each_sample(tree)) == by_id(first.values())

    holds()
    for store in stores:
        store.close()


def test_a_pack_that_never_came_to_count_gives_way_to_the_one_that_did(url, monkeypatch):
    """A writer dies between its pack and the list; another one writes other values under the same ids."""
    store, other = HBaseStore(url), HBaseStore(url)
    with monkeypatch.context() as patch:
        patch.setattr(store._writer, "_count", lambda *_: (_ for _ in ()).throw(Unavailable("dead")))
        with pytest.raises(Unavailable, match="dead"):
            store.write(rows(polled(volume=1.0)))
    second = polled(volume=2.0)

    assert other.write(rows(second)).stored == 1
    assert list(other.each_sample()) == [second]
    assert other.statistics(StatisticsQuery())[0].sum == 2.0
    store.close()
    other.close()


def test_a_claimed_id_whose_sample_is_missing_is_put_in_its_place(url, monkeypatch):
    store, other = HBaseStore(url), HBaseStore(url)
    first = polled(volume=1.0, id=b"k" * 16)
    with monkeypatch.context() as patch:
        patch.setattr(store._writer._ties, "put", lambda *_: (_ for _ in ()).throw(Unavailable("dead")))
        with pytest.raises(Unavailable, match="dead"):
            store.write(rows(first))
    assert list(other.each_sample()) == []

    assert other.write(rows(polled("mem", volume=2.0, id=b"k" * 16))).stored == 0
    assert list(other.each_sample()) == [first]
    store.close()
    other.close()


# -- faults


@pytest.mark.slow
def test_a_region_server_that_is_gone_for_20_seconds_and_a_killed_thrift_server_lose_nothing_and_double_nothing(
    tmp_path,
):
    """Kill -9 while two write the same, in other orders: the region server (with its master) first, then what the writers are connected to."""
    with running(tmp_path, with_admin=False) as hbase, ExitStack() as stack:
        url = f"hbase://{hbase.address}/faults?buckets=2"
        stores = [stack.enter_context(closing(HBaseStore(url))) for _ in range(2)]
        everything = samples()
        progress = [0, 0]
        refused = [0, 0]

        def write(which):
            some = list(everything)
            random.Random(which).shuffle(some)
            for begin in range(0, len(some), 20):
                while True:
                    try:
                        stores[which].write(rows(*some[begin : begin + 20]))
                        break
                    except Unavailable:
                        refused[which] += 1
                        time.sleep(0.1)
                progress[which] = begin + 20

        def until_written(least):
            until(lambda: min(progress) >= least or not all(w.is_alive() for w in writers), 300.0)

        writers = [threading.Thread(target=write, args=(n,), daemon=True) for n in range(2)]
        for writer in writers:
            writer.start()
        until_written(100)
        hbase.master.kill()
        time.sleep(20)
        before = list(progress)
        hbase.start_again(hbase.master)
        until_written(300)
        hbase.thrift.kill()
        time.sleep(1)
        hbase.start_again(hbase.thrift)
        for writer in writers:
            writer.join(timeout=300)

        assert progress == [len(everything)] * 2
        assert max(before) < len(everything)
        assert all(refused)
        assert by_id(stores[0].each_sample()) == by_id(everything)
        assert stores[1].write(rows(*everything)).stored == 0
        assert {r.resource_id for r in stores[0].resources(ListQuery(limit=None)).resources} == {
            s.resource_id for s in everything
        }
        assert stores[0].check() == []


@pytest.mark.parametrize(
    "bad",
    [
        "hbase://",
        "hbase://u:secret@h/p",
        "hbase://h:x/p",
        "hbase://h/a b",
        "hbase://h/p?admin=h",
        "hbase://h/p?timeout=soon",
        "hbase://h/p?buckets=0",
        "hbase://h/p?transport=pigeon",
        "hbase://h/p?compres=gz",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(bad):
    with pytest.raises(ConfigError) as caught:
        HBaseStore(bad)
    assert "secret" not in str(caught.value)


def test_nobody_at_the_address_is_unavailable():
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        HBaseStore("hbase://127.0.0.1:1/p")
