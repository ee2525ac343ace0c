"""http://HOST[:PORT]/PATH?format=json|cloudevents|ceilometer and https://: a webhook that samples, or events, are posted to.

Guarantee: at least once: a request that was not answered with 2xx is posted again, after what came before it and before what comes next. What the receiver
refuses (400, 422 and the like) is not; the flow counts it.

A request has a JSON array of up to `batch_size` samples (`batch=false`: one sample, no array). Nephoscope's own form is what Ceilometer posted, too.
`cloudevents`: CloudEvents 1.0 as application/cloudevents-batch+json (or application/cloudevents+json). The header Idempotency-Key is the sample's id, or a
digest of the ids of all of them: the same for the same samples.

Events are posted likewise, where the URL names no format in Ceilometer's; with `raw_only=true` the payloads of their notifications alone, of those that
are kept with them. A request's Idempotency-Key is made of the message_ids.

Other options, as Ceilometer named them: timeout (seconds, 5), verify_ssl (true, false, or a file with certificates in PEM format), clientcert, clientkey; poolsize
is taken and means nothing here. `token=${env:NAME}` is sent as a bearer token; `user:${env:NAME}@HOST` as basic authentication. Options that look like
none of these belong to the receiver, and stay in the URL.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import xxhash

from nephoscope.errors import ConfigError, Problem, Unavailable
from nephoscope.event import Event
from nephoscope.event_forms import event_message, payload_message
from nephoscope.forms import CEILOMETER, CLOUDEVENTS, FORMS, JSON, ids, lines
from nephoscope.publishers import Option, flag, one_of, read_url, referenced, seconds, text, whole
from nephoscope.store import Refused, Rows, batches

TOO_LARGE: Final = 413
TO_BE_MENDED: Final = frozenset({401, 402, 403, 404, 405, 407, 408, 421, 423, 425, 426, 429})
"""Of the client's faults, those that somebody may put right, or that pass. All others mean that these samples will never be taken."""
_SUCCESS, _FAULTS = range(200, 300), range(400, 500)
_ANSWER = 16
"""Pieces that are read of an answer."""


def _verify(value: str) -> bool | str:
    try:
        return flag(value)
    except ValueError:
        return text(value)


OPTIONS: Final = {
    "format": Option(one_of(*FORMS)),
    "batch": Option(flag, True),
    "batch_size": Option(whole(1, 100_000), 500),
    "timeout": Option(seconds(0.1, 600), 5.0),
    "verify_ssl": Option(_verify, True),
    "clientcert": Option(text, ""),
    "clientkey": Option(text, ""),
    "token": Option(text, "", secret=True),
    "poolsize": Option(whole(1, 10_000)),
    "raw_only": Option(flag, False),
}


class _Target(NamedTuple):
    url: str
    user: str
    password: str
    options: dict[str, Any]


class _Request(NamedTuple):
    """A body to post. `of`: the samples, or the events, that it is made of."""

    of: pa.RecordBatch | list[Event]
    messages: list[bytes]
    ids: list[bytes]

    def part(self, start: int, size: int) -> _Request:
        end = start + size
        of = self.of[start:end] if isinstance(self.of, list) else self.of.slice(start, size)
        return _Request(of, self.messages[start:end], self.ids[start:end])


def _target_of(url: str, *, resolve: bool = True) -> _Target:
    problems: list[Problem] = []
    try:
        address = read_url(url, OPTIONS, resolve=resolve, open_query=True)
        who, mark, place = address.place.rpartition("@")
        user, _, password = who.partition(":")
        if resolve and mark:
            user, password = referenced(user), referenced(password)
        parts = urlsplit(f"{address.scheme}://{place}")
        if not parts.hostname or parts.port == 0:
            problems.append(Problem(f"{place!r} names no host", hint=f"{address.scheme}://HOST[:PORT]/PATH"))
    except ConfigError as error:
        raise ConfigError(error.problems) from None
    except ValueError as error:
        problems.append(Problem(str(error)))
    if problems:
        raise ConfigError(problems)
    path = urlsplit(url).path or "/"
    query = f"?{address.rest}" if address.rest else ""
    return _Target(f"{address.scheme}://{place}{path}{query}", user, password, address.options)


class HTTPPublisher:
    """Raises ConfigError for a URL that cannot be used, Unavailable where the receiver does not answer or cannot take samples now."""

    guarantee = "at least once: what is not answered with 2xx is posted again; ids tell a repeated sample"
    secrets: ClassVar = True

    def __init__(self, url: str, telemetry_secret: str = "") -> None:
        self._target = _target_of(url)
        self._secret = telemetry_secret
        self._requests: deque[_Request] = deque()
        self._refused: list[pa.RecordBatch | list[Event]] = []
        self._why = ""
        self._name = f"{urlsplit(self._target.url).scheme}://{urlsplit(self._target.url).netloc}"
        self._client = self._open()

    @staticmethod
    def check(url: str) -> None:
        """ConfigError for a URL that cannot be used."""
        _target_of(url, resolve=False)

    def publish(self, rows: Rows) -> None:
        """Make requests of the rows; flush posts them."""
        form = self._target.options["format"] or JSON
        made = [_Request(batch, lines(batch, form, secret=self._secret), ids(batch)) for batch in batches(rows)]
        for request in made:
            self._requests += self._cut(request)

    def publish_events(self, events: Sequence[Event]) -> None:
        """Make requests of events."""
        # Without a format, what Ceilometer posted, as for samples.
        form, raw_only = self._target.options["format"] or CEILOMETER, self._target.options["raw_only"]
        some, messages = [], []
        for event in events:
            message = payload_message(event) if raw_only else event_message(event, form, self._secret)
            if message is not None:
                some.append(event)
                messages.append(message)
        self._requests += self._cut(_Request(some, messages, [e.message_id.encode() for e in some]))

    def _cut(self, whole: _Request) -> list[_Request]:
        options = self._target.options
        size = options["batch_size"] if options["batch"] else 1
        return [whole.part(start, size) for start in range(0, len(whole.ids), size)]

    def flush(self) -> None:
        """Post what was published, one request after the other. Refused: what the receiver will never take; the rest is there."""
        while self._requests:
            request = self._requests.popleft()
            try:
                self._post(request)
            except BaseException:
                self._requests.appendleft(request)
                raise
        if self._refused:
            refused, self._refused = self._refused, []
            rows = [some for some in refused if not isinstance(some, list)]
            events = [event for some in refused if isinstance(some, list) for event in some]
            raise Refused(f"{self._name} {self._why}", rows, events)

    def _post(self, request: _Request) -> None:
        batch = self._target.options["batch"]
        kind = "application/json"
        payloads = self._target.options["raw_only"] and isinstance(request.of, list)
        if self._target.options["format"] == CLOUDEVENTS and not payloads:
            kind = "application/cloudevents-batch+json" if batch else "application/cloudevents+json"
        # A message_id may be any text; a header may not.
        name = request.ids[0].decode("utf-8", "replace")
        whole = batch or not (name.isascii() and name.isprintable())
        headers = {
            "Content-Type": kind,
            "Idempotency-Key": xxhash.xxh3_128_hexdigest(b"".join(request.ids)) if whole else name,
        }
        body = b"[" + b",".join(request.messages) + b"]" if batch else request.messages[0]
        try:
            with self._client.stream("POST", self._target.url, content=body, headers=headers) as answer:
                # A short answer is read, for the connection to be used again; nobody is listened to for ever.
                for _, _ in zip(range(_ANSWER), answer.iter_raw(), strict=False):
                    pass
        except httpx.TransportError as error:
            raise Unavailable(f"{self._name}: {str(error) or type(error).__name__}") from None
        status = answer.status_code
        if status in _SUCCESS:
            return
        if status == TOO_LARGE and len(request.ids) > 1:
            half = len(request.ids) // 2
            self._requests.appendleft(request.part(half, len(request.ids) - half))
            self._requests.appendleft(request.part(0, half))
            return
        if status in _FAULTS and status not in TO_BE_MENDED:
            self._refused.append(request.of)
            self._why = f"answers {status} {answer.reason_phrase}"
            return
        away = Unavailable(f"{self._name} answers {status} {answer.reason_phrase}")
        waits = answer.headers.get("Retry-After", "")
        away.after = float(waits) if waits.isdecimal() else 0.0
        raise away

    def discard(self) -> int:
        """Forget what has not been taken. How many samples that were."""
        count = sum(len(r.ids) for r in self._requests) + int(sum(map(len, self._refused)))
        self._requests.clear()
        self._refused = []
        return count

    def close(self) -> None:
        """Post what was published, and close the connection."""
        try:
            self.flush()
        finally:
            self._client.close()

    def _open(self) -> httpx.Client:
        options = self._target.options
        headers = {"User-Agent": "nephoscope"}
        if options["token"]:
            headers["Authorization"] = f"Bearer {options['token']}"
        try:
            verify: Any = options["verify_ssl"]
            if isinstance(verify, str):
                verify = ssl.create_default_context(cafile=verify)
            if options["clientcert"]:
                if isinstance(verify, bool):
                    verify = httpx.create_ssl_context(verify=verify)
                verify.load_cert_chain(options["clientcert"], options["clientkey"] or None)
            auth = (self._target.user, self._target.password) if self._target.user else None
            httpx.URL(self._target.url)
            return httpx.Client(timeout=options["timeout"], verify=verify, auth=auth, headers=headers)
        except (OSError, ssl.SSLError, httpx.InvalidURL) as error:
            raise ConfigError([Problem(f"{self._name}: {error}")]) from None
