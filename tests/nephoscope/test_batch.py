"""A batch as a message: what was written is read, and nothing else passes for it."""

from __future__ import annotations

import random
import struct
import subprocess
import sys

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from nephoscope import batch as messages
from nephoscope.batch import (
    EMPTY,
    MAX_MESSAGE,
    PUSHED,
    SCHEMA,
    Batch,
    Header,
    batch_of,
    compact,
    decode,
    encode,
    encode_split,
    frame,
    has_nulls,
    int_column,
    mark,
    split_by,
)
from nephoscope.errors import BatchError
from nephoscope.sample import Sample
from nephoscope.times import NEVER

HEAD = struct.Struct("<4sB3xIIQ")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
moments = st.integers(-(2**63) + 1, 2**63 - 1)
samples = st.builds(
    Sample,
    name=texts,
    type=texts,
    unit=texts,
    volume=st.floats(),
    resource_id=texts,
    timestamp=moments,
    user_id=texts,
    project_id=texts,
    metadata=texts,
    source=texts,
    measured_at=moments | st.just(NEVER),
    id=st.binary(min_size=16, max_size=16),
    origin=texts,
    late=st.booleans(),
)
headers = st.builds(
    Header,
    interval=st.integers(0, 86400),
    polling=st.lists(texts, max_size=3).map(tuple),
    mark=moments | st.just(NEVER),
    member=texts,
    generation=st.integers(0, 2**63 - 1),
)


def sample(i=0, **more):
    given_ = {
        "name": f"m{i % 3}",
        "type": "gauge",
        "unit": "B",
        "volume": float(i),
        "resource_id": f"r{i % 7}",
        "timestamp": i * 1_000_000,
        "metadata": f'{{"i":{i % 5}}}',
        "id": i.to_bytes(16, "little"),
    }
    return Sample(**given_ | more)


def some(n=40):
    return batch_of([sample(i) for i in range(n)], Header(interval=60, polling=("p",)))


def signed(message):
    """The message with the checksum that fits it: what is left to the validation behind."""
    head = HEAD.unpack_from(message)
    return HEAD.pack(*head[:4], xxhash.xxh64_intdigest(message[HEAD.size :])) + message[HEAD.size :]


@given(st.lists(samples, max_size=6), headers)
def test_what_is_encoded_is_decoded(given_, header):
    got = decode(encode(batch_of(given_, header)))

    assert got.header == header
    assert repr(list(got.samples())) == repr(given_)  # repr: NaN is itself there
    assert not has_nulls(got.rows)


@given(st.lists(samples, min_size=2, max_size=8), st.data())
def test_a_slice_is_encoded_as_its_rows(given_, data):
    start = data.draw(st.integers(0, len(given_)))
    stop = data.draw(st.integers(start, len(given_)))
    part = batch_of(given_).rows.slice(start, stop - start)

    for rows in (part, compact(part)):
        assert repr(list(decode(encode(Batch(rows))).samples())) == repr(given_[start:stop])
    assert int_column(part, "timestamp").tolist() == [s.timestamp for s in given_[start:stop]]


def test_the_samples_of_a_generator_are_taken():
    assert list(batch_of(sample(i) for i in range(3)).samples()) == [sample(i) for i in range(3)]


def test_a_mark_is_a_header_without_rows():
    got = decode(mark(77, "me"))

    assert (len(got), got.header) == (0, Header(mark=77, member="me"))
    assert got.rows.schema.equals(SCHEMA)
    assert len(mark(77)) < 64
    assert len(EMPTY) == 0


def test_the_body_begins_at_a_multiple_of_eight():
    """So that the columns of a message are read where they lie, aligned."""
    for length in range(20):
        message = encode(batch_of([sample()], Header(member="x" * length)))
        assert HEAD.unpack_from(message)[3] % 8 == 0


def test_a_compressed_body_is_read_like_any_other():
    batch = some(500)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(batch.rows)

    assert list(decode(frame(b"{}      ", sink.getvalue().to_pybytes(), 500)).samples()) == list(batch.samples())


@given(st.lists(samples, max_size=8), st.integers(1, 4000))
def test_split_messages_hold_all_rows_in_order(given_, limit):
    parts = [decode(m) for m in encode_split(batch_of(given_, PUSHED), limit)]

    assert repr([s for p in parts for s in p.samples()]) == repr(given_)


def test_split_messages_stay_below_the_limit():
    batch = batch_of([sample(i, metadata=f'{{"i":"{i}{"x" * 500}"}}') for i in range(4000)], Header(member="me"))
    parts = encode_split(batch)

    assert len(parts) > 1
    assert max(map(len, parts)) <= MAX_MESSAGE
    assert {decode(p).header for p in parts} == {Header(member="me")}
    assert [s for p in parts for s in decode(p).samples()] == list(batch.samples())


def test_what_fits_is_not_split_and_a_single_row_goes_out_whatever_its_size():
    assert len(encode_split(some())) == 1
    (huge,) = encode_split(batch_of([sample(metadata="x" * 2_000_000)]))
    assert len(huge) > MAX_MESSAGE


def test_rows_are_grouped_by_number_in_order():
    batch = some()
    parts = split_by(batch, [i % 3 for i in range(40)])

    assert {p: list(b.samples()) for p, b in parts.items()} == {
        p: [sample(i) for i in range(40) if i % 3 == p] for p in range(3)
    }
    assert {b.header for b in parts.values()} == {batch.header}
    assert len(parts[0].rows.column("resource_id").dictionary) <= 7


def without(column, value=None):
    """The columns of a batch with another one in a column's place."""
    rows = some(4).rows
    arrays = [value if f.name == column else rows.column(f.name) for f in SCHEMA]
    schema = pa.schema([pa.field(f.name, a.type) for f, a in zip(SCHEMA, arrays, strict=True)])
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def written(rows, count=None, head=b"{}      "):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return frame(head, sink.getvalue().to_pybytes(), rows.num_rows if count is None else count)


def with_nulls(column):
    """A batch of the right schema with a null in a column (or in its dictionary: 'column.word')."""
    name, _, word = column.partition(".")
    rows = some(4).rows
    field = SCHEMA.field(name)
    if word:
        array = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1], pa.int32()), pa.array(["a", None]))
    else:
        array = pa.array([*rows.column(name).to_pylist()[:3], None], field.type)
    schema = pa.schema([f.with_nullable(True) for f in SCHEMA])
    arrays = [array if f.name == name else rows.column(f.name) for f in SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


WRONG = {
    "nothing": (b"", "0 bytes"),
    "a word": (b"NEPH", "4 bytes"),
    "another magic": (b"JSON" + encode(some())[4:], "NEPH"),
    "another version": (b"NEPH\x02" + encode(some())[5:], "version 2"),
    "a byte more": (encode(some()) + b"\0", "checksum"),
    "a byte less": (encode(some())[:-1], "checksum"),
    "no JSON": (frame(b"nonsense", b"", 0), "header"),
    "a JSON list": (frame(b"[]      ", b"", 0), "header"),
    "a header of other types": (frame(b'{"interval":"x"}', b"", 0), "header"),
    "an interval below 0": (frame(b'{"interval":-60}', b"", 0), "header"),
    "an interval of centuries": (frame(b'{"interval":2147483648}', b"", 0), "header"),
    "an interval that no column holds": (frame(b'{"interval":' + b"9" * 40 + b"}", b"", 0), "header"),
    "a mark that no column holds": (frame(b'{"mark":' + b"9" * 40 + b"}", b"", 0), "header"),
    "a header that is no UTF-8": (frame(b'{"member":"\xff\xfe"}', b"", 0), "header"),
    "rows announced that are not there": (frame(b"{}      ", b"", 3), "Arrow"),
    "another number of rows": (written(some(4).rows, 5), "announced"),
    "far too many rows": (written(some(4).rows, 2**32 - 1), "announced"),
    "a column too few": (written(some(4).rows.drop_columns(["late"])), "schema"),
    "a plain string column": (written(without("name", pa.array(["a"] * 4))), "schema"),
    "an id of 15 bytes": (written(without("id", pa.array([b"x" * 15] * 4, pa.binary(15)))), "schema"),
    "times in seconds": (written(without("timestamp", pa.array([1] * 4, pa.timestamp("s", "UTC")))), "schema"),
}


@pytest.mark.parametrize("message,said", WRONG.values(), ids=WRONG)
def test_what_is_no_batch_is_refused_and_the_error_says_why(message, said):
    with pytest.raises(BatchError, match=said):
        decode(message)


@pytest.mark.parametrize(
    "column", ["volume", "timestamp", "id", "late", "name", "resource_id", "name.word", "resource_metadata.word"]
)
def test_nulls_are_refused_wherever_they_are(column):
    rows = with_nulls(column)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(rows.columns, schema=SCHEMA))
    message = frame(b"{}      ", sink.getvalue().to_pybytes(), 4)

    with pytest.raises(BatchError, match="nulls"):
        decode(message)
    assert has_nulls(decode(message, nulls=True).rows)


def test_an_index_beyond_the_dictionary_is_refused():
    rows = some(4).rows
    bad = pa.DictionaryArray.from_buffers(
        SCHEMA.field("name").type,
        4,
        [None, pa.py_buffer(np.array([0, 1, 2, 99], np.int32))],
        rows.column("name").dictionary,
        0,
    )
    arrays = [bad if f.name == "name" else rows.column(f.name) for f in SCHEMA]

    with pytest.raises(BatchError, match="Arrow"):
        decode(written(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)))


def test_words_that_are_no_utf8_are_refused():
    rows = some(4).rows
    words = pa.Array.from_buffers(
        pa.utf8(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
    )
    bad = pa.DictionaryArray.from_buffers(
        SCHEMA.field("unit").type, 4, [None, pa.py_buffer(np.zeros(4, np.int32))], words, 0
    )
    arrays = [bad if f.name == "unit" else rows.column(f.name) for f in SCHEMA]

    with pytest.raises(BatchError, match="Arrow"):
        decode(written(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)))


def test_a_header_of_a_later_version_may_say_more():
    assert decode(frame(b'{"interval":60,"shiny":{"new":1}}', b"", 0)).header == Header(interval=60)


def test_a_deeply_nested_header_is_refused():
    head = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(BatchError, match="header"):
        decode(frame(head, b"", 0))


def mutated(seed, count):
    """Messages that are nearly right: bits turned, bytes overwritten, cut out, doubled; the checksum made anew in most of them."""
    some_ = random.Random(seed)
    compressed = pa.BufferOutputStream()
    with pa.ipc.new_stream(compressed, SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(some(40).rows)
    valid = [
        encode(some(3)),
        encode(some(40)),
        mark(5, "me"),
        frame(b"{}      ", compressed.getvalue().to_pybytes(), 40),
    ]
    for _ in range(count):
        message = bytearray(some_.choice(valid))
        for _ in range(some_.choice((1, 1, 1, 2, 5, 20))):
            # Lengths, offsets and flatbuffers lie in front; the columns' bytes behind.
            at = (
                some_.randrange(8, len(message))
                if some_.random() < 0.5
                else some_.randrange(8, min(len(message), 2600))
            )
            match some_.randrange(6):
                case 0 | 1:
                    message[at] ^= 1 << some_.randrange(8)
                case 2:
                    message[at] = some_.choice((0, 1, 0x7F, 0x80, 0xFF))
                case 3:
                    message[at : at + 4] = some_.choice(
                        (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\0\0")
                    )
                case 4:
                    del message[at : at + some_.randrange(1, 40)]
                case 5:
                    message[at:at] = message[at : at + some_.randrange(1, 40)]
            if len(message) <= 40:
                break
        yield bytes(message) if some_.random() < 0.1 else signed(bytes(message).ljust(HEAD.size, b"\0"))


def strange(seed, count):
    """Bytes of any kind, some behind a right beginning."""
    some_ = random.Random(seed)
    for _ in range(count):
        noise = some_.randbytes(some_.randrange(200))
        if some_.random() < 0.5:
            head = b"{}      "
            body = (
                some_.choice((b"", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff" + (len(noise) & ~7).to_bytes(4, "little")))
                + noise
            )
            yield frame(head, body, some_.choice((0, 1, 40, 2**31)))
        else:
            yield noise


def judge(messages_):
    """How many of these are refused, and how many pass; whatever passes has to be good in every use."""
    refused = passed = 0
    for message in messages_:
        try:
            got = decode(message)
        except BatchError:
            refused += 1
            continue
        passed += 1
        got.rows.validate(full=True)
        assert not has_nulls(got.rows)
        assert got.rows.schema.equals(SCHEMA)
        assert len(list(got.samples())) == len(got)
        assert list(decode(encode(Batch(compact(got.rows), got.header))).samples()) is not None
    return refused, passed


def test_strange_bytes_are_refused_or_are_a_batch():
    refused, passed = judge(strange(1, 20_000))

    assert refused + passed == 20_000
    assert refused > 15_000


def test_nearly_right_messages_are_refused_or_are_a_batch():
    """In an interpreter of its own: nothing in such a message may bring it down."""
    code = f"from tests.nephoscope.test_batch import *; print(*judge(mutated(7, {MUTATIONS})))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )

    assert done.returncode == 0, done.stderr[-2000:]
    refused, passed = map(int, done.stdout.split())
    assert refused + passed == MUTATIONS
    assert passed > MUTATIONS / 50, "the mutations are too coarse: nothing is left to pass"
    assert refused > MUTATIONS / 4


MUTATIONS = 6000


def test_a_header_decodes_as_it_is_documented():
    assert msgspec.json.encode(Header()) == b"{}"
    assert messages.decode(mark(NEVER + 1)).header.mark == NEVER + 1
