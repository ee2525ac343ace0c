"""Reading the settings from file, variables and flags, with every problem found and where it stands."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from nephoscope import documents
from nephoscope.errors import ConfigError, Problem, nearest
from nephoscope.settings.model import Settings, shipped
from nephoscope.settings.sections import split
from nephoscope.yaml_nodes import Node

PREFIX: Final = "NEPHOSCOPE_"
FILE_VARIABLE: Final = "NEPHOSCOPE_CONFIG"
PLACES: Final = (Path("nephoscope.yaml"), Path("/etc/nephoscope/nephoscope.yaml"))
"""Where a settings file is looked for when none is named."""

ALIASES: Final = {
    "time_to_live": "database.metering_time_to_live",
    "metering_time_to_live": "database.metering_time_to_live",
    "database.time_to_live": "database.metering_time_to_live",
    "event_time_to_live": "database.event_time_to_live",
    "time_to_live_classes": "database.time_to_live_classes",
    "metering_secret": "telemetry_secret",
    "central.partitioning_group_prefix": "polling.partitioning_group_prefix",
}
"""Names that Ceilometer gave an option at some time, and ours."""

_PATHS: Final = (
    "state_dir",
    "pipeline_cfg_file",
    "event_pipeline_cfg_file",
    "polling_cfg_file",
    "hardware.hosts",
    "notifications.definitions",
    "notifications.event_definitions",
    "openstack.clouds_file",
)
_FOLDERS: Final = ("pollsters_definitions_dirs",)
"""Lists of paths."""
_REFERENCE = re.compile(r"\$\{(env|file):([^}]*)\}")


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as somebody gave it, and where."""

    value: Any
    file: str = ""
    line: int = 0

    def problem(self, field: str, message: str, hint: str = "") -> Problem:
        return Problem(message, file=self.file, line=self.line, field=field, hint=hint)


def setting_names() -> tuple[str, ...]:
    """Every setting's name, sections dotted."""
    return tuple(_keys(Settings))


def _keys(model: type[BaseModel], above: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{above}{name}.")
        else:
            yield above + name


def find_file(environment: Mapping[str, str] | None = None) -> Path | None:
    """The settings file that applies when none is named on the command line; None: there is none."""
    named = (os.environ if environment is None else environment).get(FILE_VARIABLE)
    if named:
        return Path(named)
    return next((p for p in PLACES if p.is_file()), None)


def load_settings(
    file: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings that apply.

    Args:
        file: the user's file; by default `find_file` looks for one.
        environment: the variables; by default the process's own.
        flags: dotted names and values that beat all others.

    Raises:
        ConfigError: with everything that is wrong, in file, variables and flags.

    """
    environment = os.environ if environment is None else environment
    file = file or find_file(environment)
    problems: list[Problem] = []
    given = _from_file(shipped("nephoscope.yaml"), problems, Path.cwd())
    if file is not None:
        given |= _from_file(file, problems, file.absolute().parent)
    given |= _from_variables(environment, problems)
    given |= _from_flags(flags or {}, problems)
    given = {name: _referenced(name, item, environment, problems) for name, item in given.items()}
    settings = _validated(given, problems)
    if problems or settings is None:
        raise ConfigError(problems)
    return settings


def _from_file(file: Path, problems: list[Problem], base: Path) -> dict[str, _Given]:
    """The values of a settings file by their dotted names, in the order of the file."""
    checker = documents.Checker(str(file))
    node = documents.read(file, checker)
    # Every line of it may be commented out.
    problems += [p for p in checker.problems if p.message != "is empty"]
    if node is None:
        return {}
    if not isinstance(node.value, dict):
        if node.value is not None:
            problems.append(Problem("a settings file is a mapping of names to values", file=str(file), line=node.line))
        return {}
    out: dict[str, _Given] = {}
    _from_node(node, "", str(file), out, problems, base)
    return out


def _from_node(node: Node, above: str, file: str, out: dict[str, _Given], problems: list[Problem], base: Path) -> None:
    """Add the values of a mapping, sections within it included."""
    for key, child in node.value.items():
        name = f"{above}{key}"
        at = _Given(child.plain(), file, node.key_lines[key])
        if not any(k.startswith(f"{name}.") for k in (*setting_names(), *ALIASES)):
            _put(out, name, at, problems, base)
        elif isinstance(child.value, dict):
            _from_node(child, f"{name}.", file, out, problems, base)
        elif child.value is not None:
            problems.append(at.problem(name, f"must be a mapping, not {documents.kind(child.value)}"))


def _put(out: dict[str, _Given], key: str, item: _Given, problems: list[Problem], base: Path | None = None) -> None:
    known = setting_names()
    name = ALIASES.get(key, key)
    if name not in known:
        problems.append(item.problem(key, "there is no such setting", nearest(key, [*known, *ALIASES])))
        return
    if name in out and name != key:
        problems.append(item.problem(key, f"is another name of {name}, which is given as well"))
        return
    if name in _PATHS and base and isinstance(item.value, str) and item.value:
        item = _Given(_below(base, item.value), item.file, item.line)
    if name in _FOLDERS and base:
        given = split(item.value)
        if isinstance(given, list | tuple) and all(isinstance(v, str) for v in given):
            item = _Given([_below(base, v) for v in given], item.file, item.line)
    out[name] = item


def _below(base: Path, path: str) -> str:
    return str(base / Path(path).expanduser())


def _from_variables(environment: Mapping[str, str], problems: list[Problem]) -> dict[str, _Given]:
    by_variable = {PREFIX + k.upper().replace(".", "__"): k for k in (*setting_names(), *ALIASES)}
    out: dict[str, _Given] = {}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        item = _Given(environment[variable], "environment")
        key = by_variable.get(variable)
        if key is not None:
            _put(out, key, item, problems, Path.cwd())
            continue
        # Others use the prefix as well (Kubernetes: NEPHOSCOPE_SERVICE_HOST): only what looks like a slip is refused.
        if difflib.get_close_matches(variable, by_variable, n=1, cutoff=0.9):
            problems.append(item.problem(variable, "there is no such setting", nearest(variable, by_variable)))
    return out


def _from_flags(flags: Mapping[str, Any], problems: list[Problem]) -> dict[str, _Given]:
    out: dict[str, _Given] = {}
    for key, value in flags.items():
        if value is not None:
            _put(
                out, key, _Given(str(value) if isinstance(value, Path) else value, "command line"), problems, Path.cwd()
            )
    return out


def _referenced(name: str, item: _Given, environment: Mapping[str, str], problems: list[Problem]) -> _Given:
    """The value with its references replaced."""
    if isinstance(item.value, dict):
        inner = {k: _Given(v, item.file, item.line) for k, v in item.value.items()}
        done = {k: _referenced(name, v, environment, problems).value for k, v in inner.items()}
        return _Given(done, item.file, item.line)
    if not isinstance(item.value, str) or "${" not in item.value:
        return item

    def replace(match: re.Match[str]) -> str:
        kind, what = match.groups()
        if kind == "env":
            if what not in environment:
                problems.append(item.problem(name, f"the variable {what} is not set"))
            return environment.get(what, "")
        try:
            return Path(what).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            problems.append(item.problem(name, f"cannot read {what}: {reason}"))
            return ""

    text = _REFERENCE.sub(replace, item.value)
    if "${" in _REFERENCE.sub("", item.value):
        problems.append(item.problem(name, "a reference is ${env:NAME} or ${file:path}"))
    return _Given(text, item.file, item.line)


def _validated(given: Mapping[str, _Given], problems: list[Problem]) -> Settings | None:
    tree: dict[str, Any] = {}
    for name, item in given.items():
        *sections, inner = name.split(".")
        value = None if name in _PATHS and name != "state_dir" and item.value == "" else item.value
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[inner] = value
    known = {p.field for p in problems}
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            name = ".".join(str(p) for p in fault["loc"])
            if name not in given:
                # A fault inside of a mapping is one of the setting.
                name = next((n for n in given if name.startswith(f"{n}.")), name)
            item = given.get(name, _Given(None))
            message = fault["msg"][0].lower() + fault["msg"][1:]
            # What is missing or empty because of a problem that is known is no second problem.
            if name not in known and not (fault["type"] == "missing" and problems):
                problems.append(item.problem(name, message))
        return None
    for key in _FOLDERS:
        missing = [folder for folder in attrgetter(key)(settings) if not folder.is_dir()]
        problems += [given[key].problem(key, f"there is no folder {folder}") for folder in missing]
    for key in _PATHS:
        path = attrgetter(key)(settings)
        if key == "notifications.definitions":
            if path is not None and not path.is_dir():
                problems.append(given[key].problem(key, f"there is no folder {path}"))
        elif key != "state_dir" and path is not None and not path.is_file():
            problems.append(given[key].problem(key, f"there is no file {path}"))
    return settings
