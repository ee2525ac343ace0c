"""From the bytes of an answer to its entries: JSON, XML, or text.

XML becomes objects as xmltodict has them: an element is an object of its children, several of one name are a list, attributes are ``@name``, text
beside either is ``#text``; an element of text alone is that text, an empty one null; prefixes stay in the names. A document type, and with it every
entity of one's own, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from types import GenericAlias
from typing import Any, Final, TypedDict
from xml.parsers import expat

import msgspec

from nephoscope.errors import ExpressionError, NephoscopeError
from nephoscope.expressions.parse import MISSING
from sources.dynamic.attributes import Attribute
from sources.dynamic.model import Request

MAX_DEPTH: Final = 200
MAX_CONTAINERS: Final = 1_000_000
"""Lists and objects, or elements, of a page: an empty one takes three bytes there, and sixty in memory."""
_SMALL: Final = 8 << 20
"""Bytes of a page in which they are not counted."""
_members_of: Any = TypedDict
"""To the type checker a TypedDict is written in the source; here its members come from definitions."""
_decode = msgspec.json.Decoder().decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Unreadable(NephoscopeError):
    """An answer that is not what a handler reads; says why."""


class Pages:
    """Reads the pages of a request's answer.

    Args:
        request: says how.
        keys: the members of an entry that are read; None: all. Of JSON nothing else is taken out, which is most of the work that there is.

    """

    def __init__(self, request: Request, keys: Collection[str] | None) -> None:
        self._request = request
        self._entries: msgspec.json.Decoder[Any] | None = None
        self._whole: msgspec.json.Decoder[Any] | None = None
        self._link = "" if request.next_url is None else ".".join(request.next_url.keys[:1])
        key, link = request.entries, request.next_url
        if (
            keys is None
            or request.handlers[0] != "json"
            or not (key is None or _is_name(key))
            or (link is not None and (not link.keys or link.keys[0].isdecimal()))
        ):
            return
        entries: Any = GenericAlias(list, _members_of("entry", dict.fromkeys(keys, Any), total=False))
        self._entries = msgspec.json.Decoder(entries)
        if key is not None and key.keys[0] != self._link:
            members = {key.keys[0]: entries} | ({self._link: Any} if self._link else {})
            self._whole = msgspec.json.Decoder(_members_of("answer", members, total=False))

    def read(self, body: bytes) -> tuple[list[Any], Any]:
        """(the entries of a page, what the next page's URL is read from). Raises Unreadable."""
        if self._entries is not None and not _is_crowded(body):
            try:
                found = self._few(body, self._entries)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                found = None  # It is not quite what most are: the long way says what, or reads it.
            if found is not None:
                return found
        document = decode(body, self._request.handlers)
        return entries_of(document, self._request.entries), document

    def _few(self, body: bytes, entries: msgspec.json.Decoder[Any]) -> tuple[list[Any], Any] | None:
        """The same of an answer that is a list of objects, or an object with one; None for any other."""
        if body[:1] == b"[":
            return entries.decode(body), []
        if body[:1] != b"{":
            return None
        key = self._request.entries
        if self._whole is not None and key is not None:
            found = self._whole.decode(body)
            return (found[key.keys[0]], found) if key.keys[0] in found else None
        members = _members(body)
        name = key.keys[0] if key else next((k for k, raw in members.items() if bytes(memoryview(raw)[:1]) == b"["), "")
        if name not in members:
            return None
        rest = {self._link: _decode(members[self._link])} if self._link in members else {}
        return entries.decode(members[name]), rest


def _is_name(attribute: Attribute) -> bool:
    return attribute.plain and len(attribute.keys) == 1


def decode(body: bytes, handlers: Sequence[str]) -> Any:
    """What a body holds, by the first handler that can read it. Raises Unreadable with the reason of each."""
    reasons = []
    for name in handlers:
        try:
            return HANDLERS[name](body)
        except Unreadable as error:
            reasons.append(f"no {name.upper() if name != 'text' else name} ({error})")
    raise Unreadable(f"the answer is {', '.join(reasons)}")


def entries_of(document: Any, key: Attribute | None) -> list[Any]:
    """The entries that a document holds.

    Without a key: a list itself; of an object the first list in it, else the first object, else the object. What is no list is the only entry.
    Raises Unreadable where there is nothing under the key.
    """
    if isinstance(document, list):
        return document
    if key is None:
        return _first(document)
    try:
        found = key.read(document)
    except ExpressionError as error:
        raise Unreadable(f"{key.text!r} of the answer: {error}") from None
    if found is None or (found is MISSING and not document):
        return []
    if found is MISSING:
        raise Unreadable(f"the answer has no {key.text!r}")
    return found if isinstance(found, list) else [found]


def _first(document: Any) -> list[Any]:
    if not isinstance(document, dict):
        return [] if document is None else [document]
    for kind in (list, dict):
        for value in document.values():
            if isinstance(value, kind):
                return value if isinstance(value, list) else [value]
    return [document] if document else []


def _is_crowded(body: bytes) -> bool:
    return len(body) > _SMALL and body.count(b"[") + body.count(b"{") > MAX_CONTAINERS


def _json(body: bytes) -> Any:
    if _is_crowded(body):
        raise Unreadable(f"it holds more than {MAX_CONTAINERS} lists and objects")
    try:
        return _decode(body)
    except RecursionError:
        raise Unreadable("it nests too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(str(error)[:200]) from None


def _plain_text(body: bytes) -> Any:
    return [{"out": body.decode("utf-8", "replace")}]


class _Elements:
    """Builds the objects while expat reads."""

    def __init__(self) -> None:
        self.root: dict[str, Any] = {}
        self._open: list[tuple[str, dict[str, Any], list[str]]] = [("", self.root, [])]
        self._count = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) > MAX_DEPTH:
            raise Unreadable("it nests too deeply")
        self._count += 1
        if self._count > MAX_CONTAINERS:
            raise Unreadable(f"it holds more than {MAX_CONTAINERS} elements")
        self._open.append((name, {f"@{k}": v for k, v in attributes.items()}, []))

    def end(self, _name: str) -> None:
        name, members, texts = self._open.pop()
        text = "".join(texts).strip()
        value: Any = members
        if not members:
            value = text or None
        elif text:
            members["#text"] = text
        siblings = self._open[-1][1]
        if name not in siblings:
            siblings[name] = value
        elif isinstance(siblings[name], list):
            siblings[name].append(value)
        else:
            siblings[name] = [siblings[name], value]

    def text(self, data: str) -> None:
        self._open[-1][2].append(data)


def _refuse_type(*_: Any) -> None:
    raise Unreadable("it declares a document type")


def _xml(body: bytes) -> Any:
    elements = _Elements()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = elements.start
    parser.EndElementHandler = elements.end
    parser.CharacterDataHandler = elements.text
    # Before any of it is read: no entity can be declared, so none can grow or reach a file.
    parser.StartDoctypeDeclHandler = _refuse_type
    parser.EntityDeclHandler = _refuse_type
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise Unreadable(str(error)[:200]) from None
    return elements.root


HANDLERS: Final[dict[str, Callable[[bytes], Any]]] = {"json": _json, "xml": _xml, "text": _plain_text}
