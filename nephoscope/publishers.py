"""What publishers share: their URLs, with options that are checked when a pipeline is loaded, and what happens when one is away.

A publisher's class may say

* `check(url)`: raises ConfigError for a URL that it cannot use. Called when a pipeline is loaded, without network and without secrets.
* `policy`: what happens while it is away, where its URL does not say: one of POLICIES, by default ``queue``.
* `channel(url)`: the Channel that it writes to, for the AsyncAPI document.
* `secrets = True`: it takes the setting telemetry_secret as its second argument.
* `publish_events`: takes events (nephoscope.store.EventPublisher); then `check_events(url)` and `event_channel(url)` may say what is
  different for them.

All publishers but those that keep their place in the snapshot (nephoscope.store.Positioned) know the options of DELIVERY: they are taken out of
the URL before the publisher sees it. A secret stands in a URL by reference only: ``${env:NAME}`` or ``${file:/path}``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from nephoscope import registry
from nephoscope.errors import ConfigError, MissingExtra, Problem, nearest
from nephoscope.lifetimes import Lifetimes
from nephoscope.store import Positioned, Publisher
from nephoscope.store_publisher import StorePublisher, names_store

WAIT, QUEUE, DROP = "wait", "queue", "drop"
POLICIES: Final = (WAIT, QUEUE, DROP)
_REFERENCE = re.compile(r"\$\{(env|file):([^}]*)\}")


class Channel(NamedTuple):
    """Where a publisher's messages can be read. `form`: of nephoscope.forms, or ``arrow``; `key`: what the messages' key is, in words."""

    protocol: str
    servers: tuple[str, ...]
    address: str
    form: str
    content_type: str
    key: str


class Option(NamedTuple):
    """What a URL's option takes. `read` gives its value or raises ValueError with what is expected."""

    read: Callable[[str], Any]
    default: Any = None
    secret: bool = False


def text(value: str) -> str:
    """Any text but the empty one."""
    if not value:
        raise ValueError("some text")
    return value


def flag(value: str) -> bool:
    """True or false in the words that Ceilometer took."""
    word = value.lower()
    if word in {"1", "t", "true", "on", "y", "yes"}:
        return True
    if word in {"0", "f", "false", "off", "n", "no"}:
        return False
    raise ValueError("true or false")


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number."""

    def read(value: str) -> int:
        if not value.isdecimal() or not least <= int(value) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(value)

    return read


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A time in seconds."""

    def read(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            raise ValueError(f"seconds from {least:g} to {most:g}")
        return number

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words."""

    def read(value: str) -> str:
        if value not in words:
            raise ValueError(nearest(value, words) if len(words) > 1 else f"only {words[0]}")
        return value

    return read


def _policy(value: str) -> str:
    # Ceilometer's own word for waiting until a message is sent.
    return WAIT if value == "default" else one_of(*POLICIES)(value)


DELIVERY: Final[Mapping[str, Option]] = {
    "policy": Option(_policy),
    "max_queue_length": Option(whole(1, 10_000_000), 100_000),
    "max_retries": Option(whole(0, 1_000_000)),
    "max_retry": Option(whole(0, 1_000_000)),
}
"""What every publisher's URL takes. max_queue_length: samples; max_retries (Kafka's old spelling: max_retry): tries after the first one."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What happens while a publisher is away. `max_retries` None: it is tried until it is there again."""

    policy: str = QUEUE
    max_queue_length: int = 100_000
    max_retries: int | None = None


class Address(NamedTuple):
    """A publisher's URL, read. `place` is what stands between :// and the path, as written; `rest`: the options left to others, as written."""

    scheme: str
    place: str
    path: str
    options: dict[str, Any]
    rest: str


def read_url(url: str, known: Mapping[str, Option], *, resolve: bool = True, open_query: bool = False) -> Address:
    """A URL with its options read. ConfigError with every problem; an unknown option comes with the nearest word.

    resolve: put what they refer to in the place of references. open_query: an option that is near none of the known ones is no mistake but
    belongs to the URL itself.
    """
    problems: list[Problem] = []
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError([Problem(f"is no URL: {error}")]) from None
    values = {name: option.default for name, option in known.items()}
    rest = []
    for pair in filter(None, parts.query.split("&")):
        ((name, value),) = parse_qsl(pair, keep_blank_values=True) or [("", "")]
        option = known.get(name)
        if option is None:
            hint = nearest(name, {*known, *DELIVERY})
            if open_query and not hint.startswith("did you mean"):
                rest.append(pair)
            else:
                problems.append(Problem(f"there is no option {name!r} of {parts.scheme}://", hint=hint))
            continue
        try:
            values[name] = _value(name, value, option, resolve=resolve)
        except ValueError as error:
            shown = "…" if option.secret else value
            problems.append(Problem(f"{name}={shown}", hint=str(error)))
    if problems:
        raise ConfigError(problems)
    return Address(parts.scheme.lower(), parts.netloc, unquote(parts.path), values, "&".join(rest))


def _value(name: str, value: str, option: Option, *, resolve: bool) -> Any:
    if option.secret and not _REFERENCE.fullmatch(value):
        raise ValueError(f"a secret stands here by reference: {name}=${{env:NAME}} or {name}=${{file:/path}}")
    if "${" not in value:
        return option.read(value)
    return option.read(referenced(value)) if resolve else option.default


def referenced(value: str) -> str:
    """A text with its references replaced. ValueError where one cannot be."""

    def replace(match: re.Match[str]) -> str:
        kind, what = match.groups()
        try:
            if kind == "env":
                return os.environ[what]
            return Path(what).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
        except KeyError:
            raise ValueError(f"the variable {what} is not set") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ValueError(f"cannot read {what}: {reason}") from None

    return _REFERENCE.sub(replace, value)


def delivery_of(url: str) -> tuple[str, Delivery]:
    """(the URL without the options of DELIVERY, what they say). ConfigError where they are wrong or the publisher is not known."""
    kind = class_of(url)
    if _positioned(kind):
        return url, Delivery(WAIT)
    before, mark, query = url.partition("?")
    ours = [p for p in query.split("&") if p.partition("=")[0] in DELIVERY]
    rest = "&".join(p for p in query.split("&") if p.partition("=")[0] not in DELIVERY)
    options = read_url("x://?" + "&".join(ours), DELIVERY).options
    retries = options["max_retries"] if options["max_retries"] is not None else options["max_retry"]
    policy = options["policy"] or getattr(kind, "policy", QUEUE)
    return before + (mark and rest and mark + rest), Delivery(policy, options["max_queue_length"], retries)


def check(url: str, *, events: bool = False) -> list[Problem]:
    """What is wrong with a publisher's URL; empty too where the client that it needs is not installed: it could not run here at all.

    events: it stands in an event pipeline.
    """
    try:
        kind = class_of(url)
        plain, _ = delivery_of(url)
        name = "check_events" if events and hasattr(kind, "check_events") else "check"
        if hasattr(kind, name):
            getattr(kind, name)(plain if "://" in plain else f"{plain}://")
    except MissingExtra:
        return []
    except ConfigError as error:
        return list(error.problems)
    return []


def schemes() -> set[str]:
    """The schemes of publishers that a pipeline may name: a store is one, too."""
    return {*registry.names(registry.PUBLISHER), *registry.names(registry.STORE)}


def open_publisher(url: str, telemetry_secret: str = "", lifetimes: Lifetimes | None = None) -> Publisher:
    """The publisher of a URL, its options of DELIVERY left out. `lifetimes`: what a store is to take up.

    Raises ConfigError, MissingExtra, Unavailable; StoreError for a store that is something else's.
    """
    kind = class_of(url)
    plain, _ = delivery_of(url)
    if kind is StorePublisher:
        return StorePublisher(plain, lifetimes)
    more = (telemetry_secret,) if getattr(kind, "secrets", False) else ()
    made: Publisher = kind(plain if "://" in plain else f"{plain}://", *more)
    return made


def event_schemes() -> list[str]:
    """The schemes of the publishers that take events, and of those of which that is not known: their client is not installed."""
    found = []
    for scheme in registry.names(registry.PUBLISHER):
        try:
            takes = hasattr(registry.load(registry.PUBLISHER, scheme), "publish_events")
        except MissingExtra:
            takes = True
        if takes:
            found.append(scheme)
    return [*found, *registry.names(registry.STORE)]


def is_positioned(url: str) -> bool:
    """Whether a publisher keeps its place in the flow's snapshot (nephoscope.store.Positioned)."""
    return _positioned(class_of(url))


def label_of(url: str) -> str:
    """What a publisher is called in logs and metrics: nothing in it is secret. Of a web address the path is cut short, which may be."""
    try:
        parts = urlsplit(url if "://" in url else f"{url}://")
    except ValueError:
        return url.partition(":")[0]
    path = parts.path
    if parts.scheme.lower() in {"http", "https"} and path.count("/") > 1:
        path = f"/{path.split('/')[1]}/…"
    return f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2]}{path}"


def _positioned(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Positioned)


def class_of(url: str) -> Any:
    """What opens a publisher of this URL. Raises ConfigError for an unknown one, MissingExtra where its client is not installed."""
    if names_store(url):
        registry.load_for(registry.STORE, url)
        return StorePublisher
    return registry.load(registry.PUBLISHER, url.partition(":")[0].lower())
