"""What went wrong between us and a service, in words: no stack, no URL with its parts, no secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from nephoscope.errors import NephoscopeError
from sources.pollster import PermanentError

_LONGEST: Final = 200
_MARKUP: Final = re.compile(r"<[^>]*>")
_STATUS: Final = re.compile(r" \((HTTP \d+|Request-ID: [^)]*)\)")


class CloudError(NephoscopeError):
    """A service did not answer as it should. The message names the service, the region and the cause."""


class NotConfigured(PermanentError):
    """There is no cloud: clouds.yaml, variables and settings name none that could be used."""


def explain(error: BaseException, wait: float) -> str:
    """The cause of a failed request. `wait`: the seconds for which it waited."""
    from keystoneauth1 import exceptions

    if isinstance(error, exceptions.ConnectTimeout):
        return f"no answer within {wait:g} s"
    status = getattr(error, "http_status", None) or getattr(error, "status_code", None)
    if status:
        # keystoneauth says the status, and the request's id, once more.
        return f"HTTP {status}: {one_line(_STATUS.sub('', str(error)))}"
    if isinstance(error, exceptions.SSLError):
        return f"TLS: {cause(error)}"
    if isinstance(error, exceptions.ConnectFailure):
        return f"no connection: {cause(error)}"
    return cause(error)


def cause(error: BaseException) -> str:
    """The innermost reason, on one line."""
    last = error
    for last in _chain(error):
        if isinstance(last, OSError) and last.strerror:
            return last.strerror
    return one_line(str(last)) or type(last).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def one_line(text: str) -> str:
    """A text from outside: its first words, without markup."""
    return " ".join(_MARKUP.sub(" ", text[: 10 * _LONGEST]).split())[:_LONGEST]


def check_status(response: Any, where: str, what: str) -> None:
    """Raise where a requests.Response is no success: CloudError, or PermanentError where a role is missing."""
    status = response.status_code
    if status < 300:  # keystoneauth follows redirections itself.
        return
    told = f"{where}: HTTP {status} for {what}: {_message(response) or one_line(response.reason or '')}"
    if status == 403:
        raise PermanentError(f"{told} (which roles are needed: docs/pollsters.md)")
    raise CloudError(told)


def _message(response: Any) -> str:
    """What the service says about it: {"error": {"message": ...}}, or as Neutron and Octavia have it, or a text."""
    try:
        said = response.json()
    except ValueError:
        return one_line(response.text)
    if isinstance(said, dict):
        for value in said.values():
            if isinstance(value, dict) and isinstance(value.get("message"), str):
                return one_line(value["message"])
            if isinstance(value, str):
                return one_line(value)
    return ""
