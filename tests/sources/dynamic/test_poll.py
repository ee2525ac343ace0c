"""Polls of a real API: what they give, page by page, and what they do where it answers otherwise than it should."""

import base64
import gzip
import json
import re
import threading

import httpx
import pytest

from nephoscope import registry
from nephoscope.errors import MissingExtra
from sources.dynamic import answers, web
from sources.dynamic.door import S3Auth
from sources.pollster import PermanentError

THINGS = [
    {"id": "t1", "size": 10, "state": "UP", "user_id": "u1", "project_id": "p1", "flavor": {"vcpus": 2}, "tags": ["a", "b"]},
    {"id": 2, "size": "2.5", "state": "DOWN", "user_id": None},
    {"id": "t3", "size": None, "state": "LOST"},
]  # fmt: skip


def body(document):
    return json.dumps(document).encode()


def volumes(readings):
    return {r.resource_id: r.volume for r in readings}


# What an answer gives


def test_entries_become_readings_with_their_owners_and_metadata(api, poll):
    api.routes["/things"] = body({"links": {}, "things": THINGS})
    readings, error = poll(
        "value_attribute: size",
        "metadata_fields: [state, flavor.vcpus, \"tags | ','.join(value)\"]",
        "metadata_mapping: {flavor.vcpus: vcpus}",
        "preserve_mapped_metadata: false",
    )

    assert error is None
    assert volumes(readings) == {"t1": 10, "2": 2.5}
    assert readings[0].metadata == {"state": "UP", "vcpus": 2, "tags | ','.join(value)": "a,b"}
    assert (readings[0].user_id, readings[0].project_id) == ("u1", "p1")
    assert (readings[1].user_id, readings[1].project_id) == ("", "")
    assert readings[0].meter[:3] == ("thing.size", "gauge", "B")


def test_words_are_mapped_or_skipped(api, poll):
    api.routes["/things"] = body(THINGS)
    readings, error = poll(
        "value_attribute: state", "value_mapping: {UP: '1'}", "default_value: 0", "skip_sample_values: [LOST]"
    )

    assert error is None
    assert volumes(readings) == {"t1": 1, "2": 0}


def test_a_word_without_a_mapping_is_an_error_beside_what_is_right(api, poll):
    api.routes["/things"] = body(
        [{"id": "a", "v": 1}, {"id": "b", "v": "ACTIVE"}, {"v": 3}, {"id": "d", "v": float(10**308) * 1}]
    )
    readings, error = poll("value_attribute: v")

    assert volumes(readings) == {"a": 1, "d": 1e308}
    assert "1 of 4 entries: 'v' of thing.size: 'ACTIVE' is no number; value_mapping makes numbers of words" in str(
        error
    )
    assert "'id' is missing (resource_id_attribute says where it stands)" in str(error)


def test_many_meters_of_a_list(api, poll):
    api.routes["/things"] = body(
        {"summary": [{"user": "u$1", "categories": [{"category": "get", "ops": 4}, {"category": "put", "ops": 5}, {"category": "rm", "ops": None}]}]}
    )  # fmt: skip
    readings, error = poll(
        "value_attribute: '[categories].ops'",
        "resource_id_attribute: user | value.split('$')[0]",
        "response_entries_key: summary",
        "skip_sample_values: [put]",
        name="ops.{category}",
    )

    assert error is None
    assert [(r.meter.name, r.volume, r.resource_id) for r in readings] == [("ops.get", 4, "u")]


def test_definitions_of_one_request_share_its_answer_and_an_entry_its_metadata(api, defined):
    api.routes["/things"] = body(THINGS)
    one = "- {{name: {}, sample_type: gauge, unit: B, url_path: '{}/things', value_attribute: {}, metadata_fields: [state]}}\n"
    system = defined(one.format("a.size", api.url, "size"), one.format("a.twice", api.url, "size | value * 2"))
    (pollster,) = system.pollsters
    readings = list(pollster.poll(f"{api.url}/things", {"a.size", "a.twice"}))

    assert pollster.name == "dynamic.a.size"
    assert [m.name for m in pollster.meters] == ["a.size", "a.twice"]
    assert [(r.meter.name, r.volume) for r in readings[:2]] == [("a.size", 10), ("a.twice", 20)]
    assert readings[0].metadata is readings[1].metadata
    assert len(api.asked) == 1
    assert [r.meter.name for r in pollster.poll(f"{api.url}/things", {"a.twice"})] == ["a.twice", "a.twice"]


def test_namespaces_are_pollsters_of_their_own(api, defined):
    system = defined(
        f"- {{name: a.b, sample_type: gauge, unit: B, url_path: '{api.url}/x?secret=1', value_attribute: v, namespaces: [central, compute]}}"
    )

    assert {(p.name, p.namespace) for p in system.pollsters} == {
        ("dynamic.a.b", "central"),
        ("dynamic.a.b@compute", "compute"),
    }
    assert {system.discoveries["dynamic"](p.discovery.removeprefix("dynamic://"))[0] for p in system.pollsters} == {
        f"{api.url}/x"
    }
    assert not system.pollsters[0].takes(f"{api.url}/y")


def test_xml_is_read_as_objects(api, poll):
    api.routes["/things"] = (
        b'<?xml version="1.0"?><a:r xmlns:a="x"><item id="1"><size>5</size></item><item id="2"><size/></item></a:r>'
    )
    readings, error = poll(
        "value_attribute: size",
        "response_handlers: [json, xml]",
        "response_entries_key: a:r.item",
        "resource_id_attribute: '@id'",
    )

    assert error is None
    assert volumes(readings) == {"1": 5}


def test_text_is_one_entry(api, poll):
    api.routes["/things"] = b"load 0.75\n"
    readings, error = poll(
        "value_attribute: out | value.split()[1]", "response_handlers: [text]", "resource_id_attribute: \". | 'host'\""
    )

    assert error is None
    assert volumes(readings) == {"host": 0.75}


@pytest.mark.parametrize(
    "document, key, wanted",
    [
        ([{"id": "a", "v": 1}], "", ["a"]),
        ({"id": "a", "v": 1}, "", ["a"]),
        ({"project": {"id": "a", "v": 1}}, "", ["a"]),
        ({"count": 1, "meta": {}, "items": [{"id": "a", "v": 1}]}, "", ["a"]),
        ({"x": {"y": [{"id": "a", "v": 1}]}}, "x.y", ["a"]),
        ({"x": None}, "x", []),
        ({}, "x", []),
        ({}, "", []),
        ([], "x", []),
        (None, "", []),
    ],
)
def test_where_the_entries_stand(api, poll, document, key, wanted):
    api.routes["/things"] = body(document)
    readings, error = poll("value_attribute: v", *([f"response_entries_key: {key}"] if key else []))

    assert error is None
    assert [r.resource_id for r in readings] == wanted


def test_an_answer_without_the_entries_says_so(api, poll):
    api.routes["/things"] = body({"error": "no"})
    readings, error = poll("value_attribute: v", "response_entries_key: things")

    assert (readings, str(error)) == ([], f"{api.url}/things: the answer has no 'things'")


# Pages


def test_pages_are_followed_to_the_last(api, poll):
    def page(handler):
        number = int(re.search(r"\d+$", handler.path)[0])
        links = [{"rel": "next", "href": f"{api.url}/things?page={number + 1}"}] if number < 4 else []
        return 200, {}, body({"links": links, "things": [{"id": str(number), "v": number}]})

    api.routes["/things"] = page
    readings, error = poll(
        "value_attribute: v",
        "response_entries_key: things",
        "next_sample_url_attribute: \"links | filter(lambda v: v.get('rel') == 'next', value) | list(value) | value[0] | value.get('href')\"",
        path="/things?page=1",
    )

    assert error is None
    assert volumes(readings) == {"1": 1, "2": 2, "3": 3, "4": 4}


@pytest.mark.parametrize(
    "link, then", [("?page=2", "/deep/things?page=2"), ("/other", "/other"), ("more", "/deep/more")]
)
def test_a_link_may_be_relative(api, poll, link, then):
    api.routes["/deep/things"] = body({"things": [{"id": "a", "v": 1}], "next": link})
    api.routes[then] = body({"things": [{"id": "b", "v": 2}]})
    _, error = poll("value_attribute: v", "next_sample_url_attribute: next", path="/deep/things")

    assert error is None
    assert [path for path, _ in api.asked] == ["/deep/things", then]


def test_pages_in_a_circle_end(api, poll):
    api.routes["/things"] = body({"things": [{"id": "a", "v": 1}], "next": "/more"})
    api.routes["/more"] = body({"things": [{"id": "b", "v": 2}], "next": "/things"})
    readings, error = poll("value_attribute: v", "next_sample_url_attribute: next")

    assert volumes(readings) == {"a": 1, "b": 2}
    assert "its pages lead back to one that was read" in str(error)
    assert len(api.asked) == 2


def test_pages_without_end_end(api, poll, monkeypatch):
    monkeypatch.setattr(web, "MAX_PAGES", 5)
    api.routes["/things"] = lambda handler: (200, {}, body({"things": [], "next": f"/things?{len(api.asked)}"}))
    _, error = poll("value_attribute: v", "next_sample_url_attribute: next")

    assert "there are more than 5 pages" in str(error)
    assert len(api.asked) == 5


@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.2:{port}/x",
        "http://127.0.0.1:1/x",
        "//localhost:{port}/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://[bad/x",
    ],
)
def test_credentials_go_to_no_other_place(api, poll, to):
    to = to.format(port=api.server_address[1])
    wanted = (
        "value_attribute: v",
        "next_sample_url_attribute: next",
        "authentication_object: bearer",
        "authentication_parameters: t0ken",
    )
    api.routes["/things"] = body({"things": [], "next": to})
    _, of_page = poll(*wanted)
    api.routes["/things"] = 302, {"Location": to}, b""
    _, of_redirect = poll(*wanted)

    for error in (of_page, of_redirect):
        assert re.search("another host or less safe|is no URL", str(error))
    assert len(api.asked) == 2


def test_a_downgrade_to_http_says_what_mends_it():
    with pytest.raises(web.AskError, match=r"value.replace\('http:', 'https:'\) mends it"):
        web.join_url("https://api/v1", "http://api/v1?page=2")
    assert web.join_url("http://api/v1", "https://api/v2") == "https://api/v2"


def test_redirects_to_the_same_host_are_followed_some_times(api, poll):
    api.routes["/things"] = 301, {"Location": "/there"}, b""
    api.routes["/there"] = body([{"id": "a", "v": 1}])
    readings, error = poll("value_attribute: v")
    assert (volumes(readings), error) == ({"a": 1}, None)

    api.routes["/there"] = 302, {"Location": "/things"}, b""
    _, error = poll("value_attribute: v")
    assert str(error) == f"{api.url}/things redirects more than 5 times"


# Answers that are none


@pytest.mark.parametrize(
    "route, said",
    [
        ((503, {}, b"x"), "answers 503 Service Unavailable"),
        ((404, {}, b"x"), "answers 404 Not Found"),
        (b"<html>", "the answer is no JSON"),
        (b"", "the answer is no JSON"),
        (b"\xff\xfe", "the answer is no JSON"),
        (lambda _handler: (200, {}, b"[" * 100_000), "it nests too deeply"),
        (b'[{"id": "a", "v": 1}', "the answer is no JSON"),
        (
            lambda _handler: (200, {}, b"[" + b"[]," * 3_000_000 + b"[]]"),
            "it holds more than 1000000 lists and objects",
        ),
        ((200, {"Content-Encoding": "gzip"}, b"no gzip"), "/things: "),
        (
            (200, {"Content-Encoding": "gzip, gzip"}, gzip.compress(gzip.compress(b"[]"))),
            "a coding that was not asked for",
        ),
        ((200, {"Content-Encoding": "br"}, b"x"), "a coding that was not asked for"),
        ((200, {"Content-Length": "100"}, b"[]"), "/things: "),
        (lambda handler: handler.wfile.write(b"garbage\r\n\r\n") and None, "/things: "),
        (lambda _handler: None, "/things: "),
    ],
)
def test_what_is_no_answer_is_an_error_that_names_place_and_cause(api, poll, route, said):
    api.routes["/things"] = route
    if isinstance(route, tuple) and route[1].get("Content-Length"):
        api.routes["/things"] = lambda handler: (
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]") and None
        )
    readings, error = poll("value_attribute: v", "timeout: 5")

    assert readings == []
    assert str(error).startswith(f"{api.url}/things")
    assert said in str(error)
    assert not isinstance(error, PermanentError)


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_credentials_are_permanent(api, poll, status):
    api.routes["/things"] = status, {}, b""
    _, error = poll("value_attribute: v")

    assert isinstance(error, PermanentError)
    assert f"{api.url}/things answers {status}" in str(error)


def test_nobody_there(poll, api):
    api.shutdown()
    api.server_close()
    _, error = poll("value_attribute: v")

    assert re.search(r"/things: .*(refused|connect)", str(error), re.IGNORECASE)


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_end_is_read_no_further_than_the_limit(api, poll, monkeypatch, packed):
    monkeypatch.setattr(web, "MAX_BYTES", 1 << 20)
    sent = []

    def endless(handler):
        coding = b"Content-Encoding: gzip\r\n" if packed else b""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + coding + b"Content-Length: 1073741824\r\n\r\n")
        piece = gzip.compress(b" " * (1 << 24)) if packed else b" " * 65536
        for _ in range(100 if packed else 16384):
            handler.wfile.write(piece)
            sent.append(len(piece))

    api.routes["/things"] = endless
    _, error = poll("value_attribute: v")

    assert str(error) == f"{api.url}/things answers with more than 1 MiB"
    assert sum(sent) < 1 << 26


def test_an_answer_that_drips_ends_with_its_time(api, poll):
    stop = threading.Event()

    def drip(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.02):
            handler.wfile.write(b" ")

    api.routes["/things"] = drip
    _, error = poll("value_attribute: v", "timeout: 0.5")
    stop.set()

    assert "was not read within 0.5 s" in str(error)


def test_an_answer_that_does_not_come(api, poll):
    stop = threading.Event()
    api.routes["/things"] = lambda _handler: stop.wait(60) and None
    _, error = poll("value_attribute: v", "timeout: 0.3")
    stop.set()

    assert re.fullmatch(rf"{api.url}/things: no answer within 0\.\d+ s", str(error))


BOMB = b'<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9)
) + b"]><b>&j;</b>"  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd"><a/>',
    ],
)
def test_xml_with_a_document_type_is_refused(api, poll, text):
    api.routes["/things"] = text
    _, error = poll("value_attribute: v", "response_handlers: [xml]")

    assert "no XML (it declares a document type)" in str(error)


def test_xml_of_too_many_elements_is_refused(api, poll, monkeypatch):
    monkeypatch.setattr(answers, "MAX_CONTAINERS", 100)
    api.routes["/things"] = b"<a>" + b"<b/>" * 100 + b"</a>"
    _, error = poll("value_attribute: v", "response_handlers: [xml]")

    assert "it holds more than 100 elements" in str(error)


# Credentials


def test_headers_and_credentials_come_from_references_and_stay_out_of_messages(
    api, poll, monkeypatch, tmp_path, caplog
):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("API_KEY", "k3y")
    (tmp_path / "password").write_text("pa55 word\n")

    def echo(handler):
        return 200, {}, body({"things": "k3y pa55 word plain-t0ken", "next": "http://elsewhere/k3y"})

    api.routes["/things"] = echo
    _, error = poll(
        "value_attribute: v | value.split('x')",
        "response_entries_key: things",
        "next_sample_url_attribute: next",
        "headers: {X-Key: 'a ${env:API_KEY}', X-Auth-Token: plain-t0ken}",
        "authentication_object: basic",
        f"authentication_parameters: 'me, ${{file:{tmp_path}/password}}'",
        path="/things?key=${env:API_KEY}",
    )

    path, headers = api.asked[0]
    assert path == "/things?key=k3y"
    assert headers["X-Key"] == "a k3y"
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"me:pa55 word"
    assert "***" in str(error)
    assert not re.search("k3y|pa55|t0ken", str(error))
    assert not re.search("k3y|pa55|t0ken", caplog.text)


def test_a_reference_to_nothing_is_permanent_and_named(api, poll):
    _, error = poll("value_attribute: v", "headers: {X-Key: '${env:NO_SUCH_VARIABLE_HERE}'}")

    assert isinstance(error, PermanentError)
    assert str(error) == "the variable NO_SUCH_VARIABLE_HERE is not set"
    assert api.asked == []


def test_one_secret_may_hold_all_parameters(api, poll, monkeypatch):
    monkeypatch.setenv("BOTH", "me, pw")
    api.routes["/things"] = b"[]"
    _, error = poll(
        "value_attribute: v", "authentication_object: HTTPBasicAuth", "authentication_parameters: '${env:BOTH}'"
    )

    assert error is None
    assert base64.b64decode(api.asked[0][1]["Authorization"].removeprefix("Basic ")) == b"me:pw"


def test_digest_and_bearer(api, poll):
    def challenge(handler):
        if "Authorization" not in handler.headers:
            return 401, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'}, b""
        return 200, {}, b"[]"

    api.routes["/things"] = challenge
    _, error = poll("value_attribute: v", "authentication_object: digest", "authentication_parameters: [me, 'p,w']")
    assert error is None
    assert api.asked[-1][1]["Authorization"].startswith('Digest username="me"')

    poll("value_attribute: v", "authentication_object: bearer", "authentication_parameters: t0ken")
    assert api.asked[-1][1]["Authorization"] == "Bearer t0ken"


@pytest.mark.parametrize(
    "url, date, signature",
    [
        ("http://johnsmith.s3.amazonaws.com/photos/puppy.jpg", "Tue, 27 Mar 2007 19:36:42 +0000", "bWq2s1WEIj+Ydj0vQ697zp+IXMU="),
        ("http://johnsmith.s3.amazonaws.com/?acl", "Tue, 27 Mar 2007 19:44:46 +0000", "c2WLPFtWHVgbEmeEG93a4cG37dM="),
    ],
)  # fmt: skip
def test_s3_signs_as_amazons_guide_does(url, date, signature):
    auth = S3Auth("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "s3.amazonaws.com")

    assert auth.signature(httpx.Request("GET", url, headers={"Date": date})) == signature


def test_s3_as_ceilometer_names_it(api, poll):
    api.routes["/things"] = b"[]"
    _, error = poll(
        "value_attribute: v",
        "module: awsauth",
        "authentication_object: S3Auth",
        f"authentication_parameters: 'ak,sk,{api.url}'",
    )

    assert error is None
    assert re.fullmatch(r"AWS ak:[A-Za-z0-9+/]{27}=", api.asked[0][1]["Authorization"])


def test_without_httpx_the_extra_is_named(api, poll, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "sources.dynamic.door")
    _, error = poll("value_attribute: v")

    assert "needs the extra [http]: pip install 'nephoscope[http]'" in str(error)
    assert isinstance(error, MissingExtra | PermanentError)


# Metadata of other requests


def test_other_requests_add_metadata_and_are_asked_once(api, poll):
    api.routes["/things"] = body(
        [{"id": str(i), "v": i, "project_id": f"p{i % 2}", "kind": "x" if i == 3 else "y"} for i in range(4)]
    )
    for i in range(2):
        api.routes[f"/projects/p{i}"] = body({"project": {"name": f"n{i}", "domain_id": "d", "id": f"p{i}"}})
    api.routes["/domains/d"] = body({"domain": {"name": "dn"}})
    project = "url_path: \"'/projects/' + str(sample['project_id'])\""
    readings, error = poll(
        "value_attribute: v",
        "metadata_fields: [kind]",
        "extra_metadata_fields_skip: [{kind: x}]",
        "extra_metadata_fields:",
        f"- {{name: project_name, {project}, value: name}}",
        f"- {{name: domain_id, {project}, value: domain_id}}",
        "- {name: domain_name, url_path: \"'/domains/' + str(extra_metadata_captured['domain_id'])\", value: name}",
    )

    assert error is None
    assert readings[0].metadata == {"project_name": "n0", "domain_id": "d", "domain_name": "dn", "kind": "y"}
    assert readings[1].metadata["project_name"] == "n1"
    assert readings[3].metadata == {"kind": "x"}
    assert sorted(path for path, _ in api.asked) == ["/domains/d", "/projects/p0", "/projects/p1", "/things"]


def test_metadata_that_cannot_be_had_is_left_out_and_told(api, poll):
    api.routes["/things"] = body([{"id": str(i), "v": i, "project_id": f"../{i}"} for i in range(20)])
    readings, error = poll(
        "value_attribute: v",
        "extra_metadata_fields: [{name: project_name, url_path: \"'/projects/' + str(sample['project_id'])\", value: name}]",
    )

    assert len(readings) == 20
    assert readings[0].metadata == {}
    assert f"20 of 20 entries: extra metadata 'project_name': {api.url}/projects/..%2F0 answers 404" in str(error)
    assert len(api.asked) == 6


# The whole


def test_check_names_file_and_cause(api, defined):
    text = f"- {{name: a.b, sample_type: gauge, unit: B, url_path: '{api.url}/x', value_attribute: v}}"
    system = defined("---\n" + text)

    (problem,) = system.check({"a.b"})
    assert problem.file.endswith("0.yaml")
    assert (problem.line, problem.field) == (2, "a.b")
    assert problem.message == f"{api.url}/x answers 404 Not Found"
    assert list(system.check({"other"})) == []

    api.routes["/x"] = b"[]"
    assert list(system.check({"a.b"})) == []


def test_it_is_in_the_registry():
    assert "dynamic" in registry.names(registry.POLLSTER)
