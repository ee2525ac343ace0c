"""pollsters.d: which answers of which APIs make which samples. Ceilometer's keys; what its documentation shows loads unchanged.

What would need Python to be run or loaded is refused with what to write instead: an operation that sources/dynamic/operations.py does not know, a class of
another module than those of `AUTHENTICATIONS`, a command.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from nephoscope.documents import Checker, Node, join, kind, read
from nephoscope.errors import ConfigError, ExpressionError, Problem, nearest
from nephoscope.sample import TYPES
from sources.dynamic.answers import HANDLERS
from sources.dynamic.attributes import Attribute
from sources.dynamic.model import CACHED, DEFAULT_NAMESPACE, TIMEOUT, Definition, Extra, Metadata, Request, View
from sources.dynamic.operations import Operation, compile_operation
from sources.dynamic.secrets import wrong_reference

REQUIRED: Final = ("name", "sample_type", "unit", "value_attribute", "url_path")
REQUEST: Final = ("endpoint_type", "headers", "timeout", "response_handlers", "response_entries_key", "next_sample_url_attribute")  # fmt: skip
AUTHENTICATION: Final = ("module", "authentication_object", "authentication_parameters")
METADATA: Final = ("metadata_fields", "metadata_mapping", "preserve_mapped_metadata")
VALUES: Final = ("skip_sample_values", "value_mapping", "default_value")
OWNERS: Final = ("user_id_attribute", "project_id_attribute", "resource_id_attribute")
EXTRA: Final = ("extra_metadata_fields", "extra_metadata_fields_cache_seconds", "extra_metadata_fields_skip")
KNOWN: Final = (
    *REQUIRED, *REQUEST, *AUTHENTICATION, *METADATA, *VALUES, *OWNERS, *EXTRA, "namespaces", "description",
)  # fmt: skip
KNOWN_EXTRA: Final = ("name", "url_path", "value", "value_attribute", *REQUEST, *METADATA, *EXTRA[1:])
REFUSED: Final = {
    "host_command": "no command is run; have it served over HTTP, or push its samples with `nephoscope sample create`",
    "barbican_secret_id": "secrets are references: authentication_parameters: ${file:/run/secrets/NAME} or ${env:NAME}",
}
AUTHENTICATIONS: Final = {
    "basic": ("", 2), "digest": ("", 2), "bearer": ("", 1), "s3": ("", 3),
    "HTTPBasicAuth": ("basic", 2), "HTTPDigestAuth": ("digest", 2), "S3Auth": ("s3", 3),
}  # fmt: skip
"""The ways to authenticate: ours, and what the classes that Ceilometer loaded mean; how many parameters each takes."""
MODULES: Final = {"requests.auth": ("HTTPBasicAuth", "HTTPDigestAuth"), "awsauth": ("S3Auth",)}
SCOPE: Final = ("sample", "extra_metadata_captured", "extra_metadata_by_name")
"""The names in an extra field's url_path."""
_NAME = re.compile(r"([\w:-]+)(\.[\w:-]+)*")
_FAMILY = re.compile(r"(?P<before>[\w:-]+(?:\.[\w:-]+)*\.)\{(?P<by>[\w-]+)\}")
_OF_LIST = re.compile(r"\[(?P<list>[^\]|]+)\]\.(?P<rest>.+)", re.DOTALL)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NAMESPACE = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def load_definitions(files: Sequence[str | Path]) -> list[Definition]:
    """The definitions of some files. Raises ConfigError with the problems of all of them."""
    found: list[Definition] = []
    problems: list[Problem] = []
    for file in files:
        checker = Checker(str(file))
        node = read(file, checker)
        if node is not None:
            found += _definitions(checker, node)
        try:
            checker.raise_problems()
        except ConfigError as error:
            problems += error.problems
    problems += _doubles(found)
    if problems:
        raise ConfigError(problems)
    return found


def _doubles(found: Sequence[Definition]) -> list[Problem]:
    seen: dict[tuple[str, str], Definition] = {}
    problems: dict[Problem, None] = {}
    for definition in found:
        for namespace in definition.namespaces:
            first = seen.setdefault((definition.name, namespace), definition)
            if first is not definition:
                said = f"is defined in {first.file}:{first.line} too"
                problems[Problem(said, definition.file, definition.line, definition.name)] = None
    return list(problems)


def _definitions(checker: Checker, node: Node) -> list[Definition]:
    nodes = [node] if isinstance(node.value, dict) else checker.items(node, "") or []
    found = [_Reader(checker, n, f"[{i}]" if n is not node else "").definition() for i, n in enumerate(nodes)]
    return [d for d in found if d is not None]


class _Reader:
    """Reads one mapping; what is wrong in it is told, and gives a default."""

    def __init__(self, checker: Checker, node: Node, path: str, known: Sequence[str] = KNOWN) -> None:
        self._checker = checker
        self._node = node
        self._path = path
        self._members: dict[str, Node] = {}
        if not isinstance(node.value, dict):
            checker.mapping(node, path, known)
            return
        name = node.value.get("name")
        if name is not None and isinstance(name.value, str) and name.value:
            self._path = path = f"{path} {name.value}".strip()
        for key in sorted(set(REFUSED).intersection(node.value)):
            checker.wrong(f"{key!r} is not supported", node.key_lines[key], path, REFUSED[key])
        rest = {k: v for k, v in node.value.items() if k not in REFUSED}
        self._members = checker.mapping(Node(rest, node.line, node.key_lines), path, known) or {}

    def definition(self) -> Definition | None:
        """The definition; None where anything is wrong."""
        checker, before = self._checker, len(self._checker.problems)
        self._require(REQUIRED)
        if not isinstance(self._node.value, dict):
            return None
        name, by = self._name()
        items, value = self._value(by)
        request = self._request()
        self._check_place(request)
        definition = Definition(
            name=name,
            type=self._one_of("sample_type", TYPES),
            unit=self._text("unit"),
            description=self._text("description"),
            value=value,
            items=items,
            by=by,
            skip=self._plain_list("skip_sample_values"),
            mapping=self._mapping(),
            default=self._number("default_value", -1.0),
            request=request,
            view=View(
                user=self._attribute("user_id_attribute", "user_id"),
                project=self._attribute("project_id_attribute", "project_id"),
                resource=self._attribute("resource_id_attribute", "id"),
                metadata=self._metadata(),
                extra=self._extras(request),
            ),
            namespaces=self._namespaces(),
            file=checker.file,
            line=self._node.line,
        )
        return definition if len(checker.problems) == before else None

    # What a field must be

    def _wrong(self, message: str, key: str, hint: str = "") -> None:
        node = self._node
        self._checker.wrong(message, node.key_lines.get(key, node.line), join(self._path, key), hint)

    def _require(self, keys: Sequence[str]) -> None:
        if isinstance(self._node.value, dict):
            for key in keys:
                if key not in self._members:
                    self._checker.wrong(f"has no {key}", self._node.line, self._path)

    def _text(self, key: str, default: str = "") -> str:
        node = self._members.get(key)
        if node is None or (node.value is None and key not in REQUIRED):
            return default
        found = self._checker.text(node, join(self._path, key))
        if found == "":
            self._wrong("is empty", key)
        return found or default

    def _one_of(self, key: str, known: Sequence[str]) -> str:
        found = self._text(key)
        if found and found not in known:
            self._wrong(f"must be one of {', '.join(known)}, not {found[:40]!r}", key, nearest(found, known))
        return found

    def _number(self, key: str, default: float, least: float = float("-inf"), most: float = float("inf")) -> float:
        node = self._members.get(key)
        if node is None:
            return default
        found = self._checker.number(node, join(self._path, key))
        if found is not None and not least <= found <= most:
            self._wrong(f"must be a number between {least:g} and {most:g}, not {found:g}", key)
        return default if found is None else float(found)

    def _texts(self, key: str) -> tuple[str, ...]:
        node = self._members.get(key)
        return () if node is None else self._checker.texts(node, join(self._path, key)) or ()

    def _plain_list(self, key: str) -> tuple[Any, ...]:
        node = self._members.get(key)
        if node is None:
            return ()
        return tuple(item.plain() for item in self._checker.items(node, join(self._path, key)) or ())

    def _mapping_of(self, key: str) -> dict[str, Node]:
        node = self._members.get(key)
        if node is None:
            return {}
        if isinstance(node.value, dict):
            return node.value
        self._wrong(f"must be a mapping, not {kind(node.value)}", key)
        return {}

    def _compiled(self, text: str, key: str, line: int = 0) -> Attribute:
        try:
            return Attribute(text)
        except ExpressionError as error:
            place = line or self._node.key_lines.get(key, self._node.line)
            self._checker.wrong(str(error), place, join(self._path, key))
            return Attribute(".")

    def _attribute(self, key: str, default: str) -> Attribute:
        return self._compiled(self._text(key, default) or ".", key)

    def _optional(self, key: str) -> Attribute | None:
        return self._attribute(key, ".") if self._text(key) else None

    # The fields

    def _name(self) -> tuple[str, str]:
        """The meter, and the attribute that the names of many of them end in."""
        name = self._text("name")
        family = _FAMILY.fullmatch(name)
        if name and not family and not _NAME.fullmatch(name):
            self._wrong(
                f"{name[:80]!r} is no meter's name", "name", "words with dots between; {attribute} last, for many"
            )
        return name, family["by"] if family else ""

    def _value(self, by: str) -> tuple[Attribute | None, Attribute]:
        text = self._text("value_attribute", ".")
        of_list = _OF_LIST.fullmatch(text)
        if by and not of_list and text != ".":
            self._wrong(f"{text!r} is no list", "value_attribute", f"[list].value for a name that ends in {{{by}}}")
        if of_list and not by:
            wanted = "a name that ends in .{attribute}: one meter an item of the list; for their sum: . | sum(x['…'] for x in value['…'])"
            self._wrong(f"{text!r} is a list of values", "value_attribute", wanted)
        if not of_list:
            return None, self._attribute("value_attribute", ".")
        items = self._compiled(of_list["list"], "value_attribute")
        return items, self._compiled(of_list["rest"], "value_attribute")

    def _mapping(self) -> dict[str, float] | None:
        if "value_mapping" not in self._members:
            return None
        path = join(self._path, "value_mapping")
        numbers = {k: self._checker.number(n, join(path, k)) for k, n in self._mapping_of("value_mapping").items()}
        return {k: float(n) for k, n in numbers.items() if n is not None} or None

    def _namespaces(self) -> tuple[str, ...]:
        node = self._members.get("namespaces")
        if node is None:
            return (DEFAULT_NAMESPACE,)
        found = (node.value,) if isinstance(node.value, str) else self._texts("namespaces")
        for text in found:
            if not _NAMESPACE.fullmatch(text):
                self._wrong(f"{text[:40]!r} is no namespace", "namespaces", "central, compute, ipmi or another word")
        return tuple(dict.fromkeys(found)) or (DEFAULT_NAMESPACE,)

    def _metadata(self) -> Metadata:
        fields = self._texts("metadata_fields")
        renamed = {k: self._checker.text(n, join(self._path, f"metadata_mapping.{k}")) for k, n in self._mapping_of("metadata_mapping").items()}  # fmt: skip
        for key in renamed:
            if key not in fields:
                self._wrong(f"{key!r} is none of the metadata_fields", "metadata_mapping", nearest(key, fields))
        node = self._members.get("preserve_mapped_metadata")
        keep = True if node is None else self._checker.flag(node, join(self._path, "preserve_mapped_metadata"))
        lines = {str(n.value): n.line for n in self._members["metadata_fields"].value} if fields else {}
        made = []
        for text in dict.fromkeys(fields):
            attribute = self._compiled(text, "metadata_fields", lines.get(text, 0))
            new = renamed.get(text)
            names = (text,) if not new else (text, new) if keep else (new,)
            made.append((names, attribute))
        return Metadata(tuple(made))

    def _request(self) -> Request:
        handlers = self._texts("response_handlers") if "response_handlers" in self._members else ("json",)
        for handler in handlers:
            if handler not in HANDLERS:
                self._wrong(f"there is no handler {handler[:40]!r}", "response_handlers", nearest(handler, HANDLERS))
        node = self._members.get("timeout")
        if node is not None and node.value in (None, "None"):
            self._wrong("a request must end", "timeout", "a number of seconds up to 3600; 30 where none is given")
        how, parameters = self._authentication()
        return Request(
            url_path=self._reference("url_path", self._text("url_path")),
            endpoint_type=self._text("endpoint_type"),
            headers=self._headers(),
            timeout=TIMEOUT
            if node is None or node.value in (None, "None")
            else self._number("timeout", TIMEOUT, 0.1, 3600),
            handlers=handlers or ("json",),
            entries=self._optional("response_entries_key"),
            next_url=self._optional("next_sample_url_attribute"),
            authentication=how,
            parameters=parameters,
        )

    def _check_place(self, request: Request) -> None:
        """Of OpenStack with an endpoint_type; else a whole URL, and how to authenticate."""
        if request.endpoint_type:
            if request.authentication:
                self._wrong("is for APIs that are not OpenStack's", "authentication_object", "leave endpoint_type out")
        elif request.url_path and not re.match(r"https?://[^/?#]", request.url_path):
            said = "is no whole URL, and there is no endpoint_type"
            self._wrong(
                said, "url_path", "https://HOST/PATH, or endpoint_type: the service's type in OpenStack's catalogue"
            )

    def _headers(self) -> tuple[tuple[str, str], ...]:
        found = []
        for name, node in self._mapping_of("headers").items():
            value = self._checker.text(node, join(self._path, f"headers.{name}")) or ""
            if not _HEADER.fullmatch(name) or any(ord(c) < 32 or ord(c) > 126 for c in value):
                self._wrong(f"{name[:40]!r} is no header: printable ASCII, on one line", "headers")
            found.append((name, self._reference("headers", value)))
        return tuple(found)

    def _authentication(self) -> tuple[str, tuple[str, ...]]:
        module, how = self._text("module"), self._text("authentication_object")
        if module and module not in MODULES:
            self._wrong(f"no class of {module[:40]!r} is loaded", "module", f"authentication_object: one of {', '.join(AUTHENTICATIONS)}, without module")  # fmt: skip
        known = MODULES.get(module, tuple(AUTHENTICATIONS))
        if not how:
            if module or "authentication_parameters" in self._members:
                self._checker.wrong("has no authentication_object", self._node.line, self._path, nearest("", known))
            return "", ()
        if how not in known:
            self._wrong(f"there is no {how[:40]!r}", "authentication_object", nearest(how, known))
            return "", ()
        meaning, count = AUTHENTICATIONS[how]
        node = self._members.get("authentication_parameters")
        texts = self._texts("authentication_parameters") if node is not None and isinstance(node.value, list) else [p.strip() for p in self._text("authentication_parameters").split(",")]  # fmt: skip
        parameters = tuple(self._reference("authentication_parameters", text) for text in texts if text)
        # One reference may hold them all, with commas between, as Ceilometer's secrets did.
        if len(parameters) != count and not (len(parameters) == 1 and "${" in parameters[0]):
            self._wrong(f"{how} takes {count} parameters, not {len(parameters)}", "authentication_parameters")
        return meaning or how, parameters

    def _reference(self, key: str, text: str) -> str:
        if wrong_reference(text):
            self._wrong("a reference is ${env:NAME} or ${file:path}", key)
        return text

    # Metadata of other requests

    def _extras(self, above: Request) -> tuple[Extra, ...]:
        node = self._members.get("extra_metadata_fields")
        if node is None or node.value is None:
            return ()
        cached = self._number("extra_metadata_fields_cache_seconds", CACHED, 0, 1e9)
        skip = tuple(s for s in self._plain_list("extra_metadata_fields_skip") if s)
        nodes = [node] if isinstance(node.value, dict) else self._checker.items(node, join(self._path, "extra_metadata_fields")) or []  # fmt: skip
        found = []
        for i, one in enumerate(nodes):
            reader = _Reader(self._checker, one, join(self._path, f"extra_metadata_fields[{i}]"), KNOWN_EXTRA)
            found.append(reader.other_request(above, cached, skip))
        return tuple(e for e in found if e is not None)

    def other_request(self, above: Request, cached: float, skip: tuple[Any, ...]) -> Extra | None:
        """The mapping as metadata of another request: with the same credentials, and at the same API unless it has an endpoint_type."""
        self._require(("name", "url_path"))
        if "value" not in self._members and "value_attribute" not in self._members:
            self._require(("value",))
        if not isinstance(self._node.value, dict):
            return None
        request = self._request()
        if not request.endpoint_type:
            request = msgspec.structs.replace(
                request,
                endpoint_type=above.endpoint_type,
                authentication=above.authentication,
                parameters=above.parameters,
            )
        elif not above.endpoint_type:
            self._wrong("is of OpenStack, and the pollster is not", "endpoint_type", "leave it out")
        if "extra_metadata_fields_skip" in self._members:
            skip = tuple(s for s in self._plain_list("extra_metadata_fields_skip") if s)
        return Extra(
            name=self._text("name"),
            request=request,
            value=self._attribute("value" if "value" in self._members else "value_attribute", "."),
            metadata=self._metadata(),
            path=self._expression(request.url_path),
            cached=self._number("extra_metadata_fields_cache_seconds", cached, 0, 1e9),
            skip=skip,
        )

    def _expression(self, text: str) -> Operation | None:
        """The path where it is an expression; None where it is meant as it stands."""
        try:
            return compile_operation(text, SCOPE, quoted=True)
        except ExpressionError as error:
            if text[:1] in ("'", '"') or any(re.search(rf"\b{name}\b", text) for name in SCOPE):
                self._wrong(str(error), "url_path")
            return None
