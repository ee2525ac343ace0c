"""What lies around a notification on the wire, and the one form in which definitions see it.

oslo.messaging writes three forms (its drivers `messaging`, `messagingv2` and Kafka's):

* v1: the bare object, the request's context in keys ``_context_*``;
* v2: ``{"oslo.version": "2.0", "oslo.message": "<the bare object as text>"}``;
* on Kafka: v2, with the context in one key ``_context`` of the inner object.

Definitions of any age find their paths in `Notification.view`: the bare object with ``_context_*`` keys (up to Liberty), ``ctxt``
and ``metadata`` (from Mitaka).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TypedDict

import msgspec

from nephoscope.errors import SampleError
from nephoscope.sample import check_time
from nephoscope.times import TOO_LATE, parse_time
from sources.notifications.paths import CONTEXT

_IN_CONTEXT = ("_context_auth_token", "_context_service_catalog")
_SECRET = frozenset({"auth_token", "service_catalog", *_IN_CONTEXT})
"""Never kept: the token of whoever made the request, and a catalogue that is long."""


class _Outer(msgspec.Struct):
    """Either form: the envelope, or the bare object."""

    inner: msgspec.Raw = msgspec.field(name="oslo.message", default=msgspec.Raw())


class _Enveloped(msgspec.Struct, gc=False):
    """Either form, as oslo.messaging writes it."""

    inner: str | msgspec.UnsetType = msgspec.field(name="oslo.message", default=msgspec.UNSET)


_enveloped = msgspec.json.Decoder(_Enveloped).decode
_outer = msgspec.json.Decoder(_Outer).decode
_text = msgspec.json.Decoder(str).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Notification:
    """A notification. `timestamp` is in microseconds UTC.

    `view` is what JSONPaths are read from. `ctxt` is only there where somebody wrote it: paths find it in the keys `_context_*`.
    """

    __slots__ = ("_raw", "_whole", "event_type", "message_id", "publisher_id", "timestamp", "view")

    def __init__(self, raw: bytes | str, view: dict[str, Any], timestamp: int, *, whole: bool) -> None:
        self._raw = raw
        self._whole = view if whole else None
        self.view = view
        self.message_id: str = view["message_id"]
        self.event_type: str = view["event_type"]
        self.publisher_id: str = view.get("publisher_id") or ""
        self.timestamp = timestamp

    @property
    def priority(self) -> str:
        """In small letters; '' where there is none."""
        said: str = self.view.get("priority") or ""
        return said.lower()

    @property
    def whole(self) -> dict[str, Any]:
        """The view with every member, for paths that may lead anywhere. Raises SampleError where a member that nobody asked for is none."""
        if self._whole is None:
            self._whole = _seen(self._read_again())
        return self._whole

    def kept(self) -> str:
        """The bare object as JSON text, for those who keep it whole. Raises SampleError as `whole`."""
        return _encode(self._read_again()).decode()

    def _read_again(self) -> dict[str, Any]:
        try:
            whole: dict[str, Any] = _decode(self._raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SampleError("json", str(error)) from None
        return _safe(self._raw, whole)

    @property
    def payload(self) -> Any:
        """The payload."""
        return self.view["payload"]


def unwrap(body: bytes) -> Notification:
    """Open a message. Raises SampleError whose reason is `json` or the name of the bad field."""
    try:
        inner = _outer(body).inner
        raw: bytes | str = body
        if inner:  # The bare object, as text; some write it as an object.
            raw = _text(inner) if bytes(memoryview(inner)[:1]) == b'"' else bytes(inner)
        whole = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _named(body, str(error)) from None
    try:
        named = whole["message_id"], whole["event_type"], whole["timestamp"]
        whole["payload"]
    except (TypeError, KeyError):
        raise _named(body, "is no notification") from None
    if not all(type(text) is str for text in named):
        raise _named(body, "is no notification")
    for name in ("publisher_id", "priority"):
        if type(whole.get(name, "")) is not str and whole[name] is not None:
            raise SampleError("json", f"{name} must be text, not {type(whole[name]).__name__}")
    for name in ("message_id", "event_type"):
        if not whole[name]:
            raise SampleError(name, f"{name} is empty")
    try:
        timestamp = check_time(parse_time(whole["timestamp"]))
    except (ValueError, OverflowError):
        raise SampleError("timestamp", f"timestamp must be an ISO 8601 time, not {named[2][:40]!r}") from None
    return Notification(raw, _seen(_safe(raw, whole)), timestamp, whole=True)


class Opener:
    """Opens messages of which only some members are asked for: the others are passed over unread, which takes half the time.

    Args:
        wanted: names of the members that paths begin with, beside those that every notification has.

    """

    def __init__(self, wanted: Collection[str]) -> None:
        self._metadata = "metadata" in wanted
        kinds: dict[str, Any] = dict.fromkeys(wanted, str | int | float | bool | None)
        kinds |= dict.fromkeys(("message_id", "event_type", "timestamp"), str)
        kinds |= {
            "publisher_id": str | None,
            "priority": str | None,
            "payload": msgspec.Raw,
            "_context": dict[str, Any],
        }
        self._view = msgspec.json.Decoder(TypedDict("View", kinds, total=False)).decode  # type: ignore[operator] # The names are not known before.

    def open(self, body: bytes) -> Notification:
        """As `unwrap`, which is asked about whatever is not as it should be."""
        try:
            inner = _enveloped(body).inner
            raw = body.decode() if inner is msgspec.UNSET else inner
            view = self._view(raw)
            timestamp = parse_time(view["timestamp"])
            if not (0 <= timestamp < TOO_LATE and view["message_id"] and view["event_type"]):
                return unwrap(body)
            text = bytes(view["payload"])
            payload = _decode(text)
        except (ValueError, KeyError, OverflowError, RecursionError):  # msgspec's errors are ValueErrors.
            return unwrap(body)
        view["payload"] = _without_secrets(payload) if b"auth_token" in text or b"service_catalog" in text else payload
        if "_context" in view:
            view["_context"] = _without_secrets(view["_context"])
            _seen(view)
        elif self._metadata:
            _seen(view)
        return Notification(raw, view, timestamp, whole=False)


def _seen(inner: dict[str, Any]) -> dict[str, Any]:
    """The bare object with what other forms of it have."""
    if "metadata" not in inner:
        inner["metadata"] = {"message_id": inner["message_id"], "timestamp": inner["timestamp"]}
    context = inner.pop("_context", None)
    if isinstance(context, dict):
        inner.update({CONTEXT + name: value for name, value in context.items()})
    return inner


def _safe(raw: bytes | str, whole: dict[str, Any]) -> dict[str, Any]:
    """A bare object without the secrets of whoever made the request: some services put their context into the payload too."""
    named = _named_secrets(raw)
    if named:
        for name in _IN_CONTEXT:
            named -= whole.pop(name, None) is not None
        if named:
            whole = _without_secrets(whole)
    return whole


def _named(body: bytes, error: str) -> SampleError:
    """What exactly is wrong with a message that could not be opened."""
    message: Any = None
    what = "the message"
    try:
        message = _decode(body)
        if isinstance(message, dict) and "oslo.message" in message:
            what = "oslo.message"
            message = message[what]
            message = _decode(message) if isinstance(message, str) else message
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as broken:
        return SampleError("json", f"{what} is not JSON: {broken}")
    if not isinstance(message, dict):
        return SampleError("json", f"{what} must be a JSON object, not {type(message).__name__}")
    for name in ("message_id", "event_type", "timestamp"):
        if not isinstance(message.get(name), str):
            found = f"must be text, not {type(message[name]).__name__}" if name in message else "is missing"
            return SampleError(name, f"{name} {found}")
    if "payload" not in message:
        return SampleError("payload", "payload is missing")
    return SampleError("json", error)


def _named_secrets(raw: bytes | str) -> int:
    """How often one may be named in a text."""
    if isinstance(raw, bytes):
        return raw.count(b"auth_token") + raw.count(b"service_catalog")
    return raw.count("auth_token") + raw.count("service_catalog")


def _without_secrets(value: Any) -> Any:
    """The same value, without them."""
    if isinstance(value, dict):
        if not _SECRET.isdisjoint(value):
            for name in _SECRET:
                value.pop(name, None)
        within: Iterable[Any] = value.values()
    else:
        within = value if isinstance(value, list) else ()
    for inner in within:
        if type(inner) is dict or type(inner) is list:
            _without_secrets(inner)
    return value
