"""Messages of SNMPv1 and v2c: what we write and read is what pysnmp reads and writes."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.ber import decoder, encoder
from pysnmp.proto import api, rfc1905
from pysnmp.proto.rfc1902 import (
    Counter32,
    Counter64,
    Gauge32,
    Integer32,
    IpAddress,
    Null,
    ObjectIdentifier,
    OctetString,
    TimeTicks,
)

from sources.snmp import ber

MODULES = {0: api.PROTOCOL_MODULES[api.SNMP_VERSION_1], 1: api.PROTOCOL_MODULES[api.SNMP_VERSION_2C]}
numbers = st.integers(0, 2**32 - 1)
oids = st.builds(
    lambda a, rest: (1, *a, *rest), st.tuples(st.integers(0, 39)), st.lists(numbers, min_size=1, max_size=20)
)
values = st.one_of(
    st.integers(-(2**31), 2**31 - 1).map(lambda n: (Integer32(n), n)),
    *(numbers.map(lambda n, k=kind: (k(n), n)) for kind in (Counter32, Gauge32, TimeTicks)),
    st.integers(0, 2**64 - 1).map(lambda n: (Counter64(n), n)),
    st.binary(max_size=300).map(lambda b: (OctetString(b), b)),
    st.just((IpAddress("10.0.0.1"), bytes([10, 0, 0, 1]))),
    st.just((Null(""), None)),
    oids.map(lambda o: (ObjectIdentifier(o), o)),
    st.sampled_from([rfc1905.noSuchObject, rfc1905.noSuchInstance, rfc1905.endOfMibView]).map(lambda e: (e, ber.END)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(oids, values), max_size=20), st.integers(0, 2**31 - 1), st.integers(0, 18))
def test_a_response_is_read_as_pysnmp_writes_it(bindings, number, status):
    module = MODULES[1]
    pdu = module.ResponsePDU()
    module.apiPDU.set_defaults(pdu)
    module.apiPDU.set_request_id(pdu, number)
    module.apiPDU.set_error_status(pdu, status)
    module.apiPDU.set_error_index(pdu, 1)
    module.apiPDU.set_varbinds(pdu, [(oid, wire) for oid, (wire, _) in bindings])
    message = module.Message()
    module.apiMessage.set_defaults(message)
    module.apiMessage.set_community(message, "c")
    module.apiMessage.set_pdu(message, pdu)

    found = ber.response(encoder.encode(message))
    assert (found.number, found.status, found.wrong) == (number, status, 1)
    assert found.bindings == [(oid, value) for oid, (_, value) in bindings]


@pytest.mark.parametrize("version, kind", [(0, ber.GET), (0, ber.NEXT), (1, ber.GET), (1, ber.BULK)])
@settings(max_examples=30, deadline=None)
@given(asked=st.lists(oids, max_size=60), number=st.integers(0, 2**31 - 1), community=st.binary(max_size=200))
def test_pysnmp_reads_what_is_asked(version, kind, asked, number, community):
    module = MODULES[version]
    data = ber.request(version, community, kind, number, asked, 0, 25 if kind == ber.BULK else 0)
    message, rest = decoder.decode(data, asn1Spec=module.Message())
    pdu = module.apiMessage.get_pdu(message)

    assert rest == b""
    assert module.apiMessage.get_community(message) == community
    assert module.apiPDU.get_request_id(pdu) == number
    assert [tuple(name) for name, _ in module.apiPDU.get_varbinds(pdu)] == asked
    if kind == ber.BULK:
        assert (module.apiBulkPDU.get_non_repeaters(pdu), module.apiBulkPDU.get_max_repetitions(pdu)) == (0, 25)


GOOD = ber._tlv(
    0x30,
    ber._integer(1)
    + ber._tlv(0x04, b"c")
    + ber._tlv(ber.RESPONSE, ber._integer(7) * 3 + ber._tlv(0x30, ber._asked((1, 3, 6, 1)) * 3)),
)


@given(st.one_of(st.binary(max_size=200), st.integers(0, len(GOOD)).map(lambda n: GOOD[:n])))
def test_what_is_no_response_is_a_value_error(data):
    if data == GOOD:
        assert ber.response(data).number == 7
        return
    with pytest.raises(ValueError):
        ber.response(data)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_bytes_that_are_damaged_raise_nothing_else(damage):
    data = bytearray(GOOD)
    for place, byte in damage:
        data[place] = byte
    with contextlib.suppress(ValueError):
        ber.response(bytes(data))
