"""What pollsters.d says, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sources.dynamic.attributes import Attribute
from sources.dynamic.operations import Operation

TIMEOUT: Final = 30.0
"""Seconds for a request, where its definition says nothing."""
DEFAULT_NAMESPACE: Final = "central"
CACHED: Final = 3600.0
"""Seconds for which an answer that gives metadata is kept."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, and how its answer is read. Definitions of equal ones share the answer. References are not replaced yet."""

    url_path: str
    endpoint_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    timeout: float = TIMEOUT
    handlers: tuple[str, ...] = ("json",)
    entries: Attribute | None = None
    next_url: Attribute | None = None
    authentication: str = ""
    parameters: tuple[str, ...] = ()


class Metadata(msgspec.Struct, frozen=True):
    """Attributes, and the names that each is kept under."""

    fields: tuple[tuple[tuple[str, ...], Attribute], ...] = ()


class Extra(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata that another request gives. `path`: makes its URL where that is an expression. `skip`: the entries that need none."""

    name: str
    request: Request
    value: Attribute
    metadata: Metadata
    path: Operation | None = None
    cached: float = CACHED
    skip: tuple[Any, ...] = ()


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Whose an entry is, and what is told of it."""

    user: Attribute
    project: Attribute
    resource: Attribute
    metadata: Metadata = Metadata()
    extra: tuple[Extra, ...] = ()


class Definition(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A definition. `by`: of many meters, the attribute that each one's name ends in; they are the items of `items`."""

    name: str
    type: str
    unit: str
    description: str
    value: Attribute
    items: Attribute | None
    by: str
    skip: tuple[Any, ...]
    mapping: Mapping[str, float] | None
    default: float
    request: Request
    view: View
    namespaces: tuple[str, ...]
    file: str
    line: int
