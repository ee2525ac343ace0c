"""What lies around a notification on the wire, and the one form in which definitions see it.

oslo.messaging writes three forms (its drivers `messaging`, `messagingv2` and Kafka's):

* v1: the bare object, the request's context in keys ``_context_*``;
* v2: ``{"oslo.version": "2.0", "oslo.message": "<the bare object as text>"}``;
* on Kafka: v2, with the context in one key ``_context`` of the inner object.

Definitions of any age find their paths in `Notification.view`: the bare object with ``_context_*`` keys (up to Liberty), ``ctxt``
and ``metadata`` (from Mitaka).
"""

from __future__ import annotations

from typing import Any

import msgspec

from nephoscope.errors import SampleError
from nephoscope.sample import check_time
from nephoscope.times import parse_time
from sources.notifications.paths import CONTEXT

_IN_CONTEXT = ("_context_auth_token", "_context_service_catalog")
_SECRET = frozenset({"auth_token", "service_catalog", *_IN_CONTEXT})
"""Never kept: the token of whoever made the request, and a catalogue that is long."""


class _Outer(msgspec.Struct):
    """Either form: the envelope, or the bare object."""

    inner: msgspec.Raw = msgspec.field(name="oslo.message", default=msgspec.Raw())


_outer = msgspec.json.Decoder(_Outer).decode
_text = msgspec.json.Decoder(str).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Notification:
    """A notification. `timestamp` is in microseconds UTC.

    `view` is what JSONPaths are read from. `ctxt` is only there where somebody wrote it: paths find it in the keys `_context_*`.
    """

    def __init__(self, raw: bytes | str, inner: dict[str, Any], timestamp: int) -> None:
        self._raw = raw
        self.message_id: str = inner["message_id"]
        self.event_type: str = inner["event_type"]
        self.publisher_id: str = inner.get("publisher_id") or ""
        self.priority: str = (inner.get("priority") or "").lower()
        self.timestamp = timestamp
        self.view = self._seen(self._without_secrets(inner))

    def _seen(self, inner: dict[str, Any]) -> dict[str, Any]:
        if "metadata" not in inner:
            inner["metadata"] = {"message_id": self.message_id, "timestamp": inner["timestamp"]}
        context = inner.pop("_context", None)
        if isinstance(context, dict):
            inner.update({CONTEXT + name: value for name, value in context.items()})
        return inner

    def kept(self) -> str:
        """The bare object as JSON text, for those who keep it whole."""
        return _encode(self._without_secrets(_decode(self._raw))).decode()

    def _without_secrets(self, whole: dict[str, Any]) -> dict[str, Any]:
        """The bare object without the secrets of whoever made the request: some services put their context into the payload too."""
        named = _named_secrets(self._raw)
        if named:
            for name in _IN_CONTEXT:
                named -= whole.pop(name, None) is not None
            if named:
                whole = _without_secrets(whole)
        return whole

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
    return Notification(raw, whole, timestamp)


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
    if isinstance(value, dict):
        return {name: _without_secrets(inner) for name, inner in value.items() if name not in _SECRET}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return value
