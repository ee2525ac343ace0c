"""`dry-run` and `test`: a pipeline over samples from a file, without a log, a store or a network."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from nephoscope.cli.lines import SampleLines
from nephoscope.cli.options import Config, Set, settings_of
from nephoscope.cli.output import complain
from nephoscope.cli.parts import known_schemes
from nephoscope.errors import EX_CONFIG, ConfigError, NephoscopeError
from nephoscope.pipeline import load_pipeline, load_polling
from nephoscope.sample import Sample, sample_to_dict, to_json
from nephoscope.settings import Settings

Published = dict[str, Any]
"""{"sink", "publisher", "sample"}, the sample in its JSON form."""

_NO_NEWS = {("stage", "received"), ("stage", "series_forgotten")}
"""What the flow counts and a dry run has said already, or need not say."""
_SHOWN = 10
"""Differences of a case that are shown."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("dry-run")(dry_run)
    app.command("test")(run_cases)


def dry_run(
    pipeline: Annotated[Path, typer.Option("--pipeline", "-p", help="A pipeline.yaml.", show_default=False)],
    samples: Annotated[Path, typer.Option("--samples", help="JSON lines, a sample each; - is stdin.")] = Path("-"),
    config: Config = None,
    overrides: Set = None,
) -> None:
    """Run a pipeline over samples from a file and print what it publishes, as JSON lines {"sink", "publisher", "sample"}.

    Nothing is polled, stored or sent. A line that is no sample is told on stderr, and the rest goes on. All windows
    close at the end of the input.

    Example: nephoscope dry-run --pipeline pipeline.yaml --samples in.jsonl
    """
    settings = settings_of(config, overrides)
    lines = SampleLines(samples, settings.max_sample_bytes)
    written = 0
    counts: Counter[tuple[str, str]] = Counter()
    for published in run_pipeline(pipeline, None, lines, settings, counts):
        sys.stdout.buffer.write(to_json(published) + b"\n")
        written += 1
    sys.stdout.buffer.flush()
    bad = sum(lines.bad.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in lines.bad.most_common())
    complain(f"{lines.read} lines read, {bad} refused{f' ({reasons})' if bad else ''}, {written} samples published")
    for (where, reason), count in sorted(counts.items()):
        if (where, reason) not in _NO_NEWS:
            complain(f"{where}: {count} {reason}")


def run_pipeline(
    pipeline: Path,
    polling: Path | None,
    samples: Iterable[Sample],
    settings: Settings,
    counts: Counter[tuple[str, str]] | None = None,
) -> Iterator[Published]:
    """What a pipeline publishes for samples, in order; `counts` gathers what the flow drops. ConfigError where it does not load."""
    from flows.dryrun import dry_run as run
    from flows.plan import Options, compile_plan

    loaded = load_pipeline(
        pipeline,
        publisher_schemes=known_schemes(),
        polling=load_polling(polling) if polling else None,
    )
    options = Options(**{name: getattr(settings, name) for name in Options.__dataclass_fields__})
    plan = compile_plan(loaded, options)
    for sink, publisher, sample in run(plan, samples, counts):
        yield {"sink": sink, "publisher": publisher, "sample": sample_to_dict(sample)}


def run_cases(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Holds a folder for each case.")] = Path(
        "tests/cases"
    ),
    config: Config = None,
    overrides: Set = None,
) -> None:
    """Run your own cases: folders with pipeline.yaml, in.jsonl and out.jsonl (and polling.yaml, where there is one).

    out.jsonl holds what must be published, as `dry-run` prints it, in any order; attributes that a line does not name are
    not compared.

    Example: nephoscope test my/cases
    """
    settings = settings_of(config, overrides)
    cases = (
        [folder] if (folder / "pipeline.yaml").is_file() else sorted(p.parent for p in folder.glob("*/pipeline.yaml"))
    )
    if not cases:
        raise NephoscopeError(f"no case in {folder}: a case is a folder with pipeline.yaml, in.jsonl and out.jsonl")
    failed = invalid = 0
    for case in cases:
        try:
            faults = _run_case(case, settings)
        except ConfigError as error:
            faults, invalid = [str(p) for p in error.problems], invalid + 1
        except NephoscopeError as error:
            faults = [str(error)]
        print(f"{'FAILED' if faults else 'passed'}  {case.name}")
        for fault in faults:
            print(f"    {fault}")
        failed += bool(faults)
    print(f"{len(cases) - failed} passed, {failed} failed", flush=True)
    if failed:
        raise typer.Exit(EX_CONFIG if invalid == failed else 1)


def _run_case(case: Path, settings: Settings) -> list[str]:
    """What is wrong with a case; empty: it passed."""
    wanted = _expected(case / "out.jsonl")
    polling = case / "polling.yaml"
    lines = SampleLines(case / "in.jsonl", settings.max_sample_bytes)
    found = list(run_pipeline(case / "pipeline.yaml", polling if polling.is_file() else None, lines, settings))
    return differences(wanted, found)


def _expected(file: Path) -> list[Published]:
    try:
        text = file.read_bytes()
    except OSError as error:
        raise NephoscopeError(f"cannot read {file}: {error.strerror}") from None
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                out.append(msgspec.json.decode(line, type=dict[str, Any]))
            except msgspec.MsgspecError as error:
                raise NephoscopeError(f"{file}:{number}: {error}") from None
    return out


def differences(wanted: Sequence[Published], found: Sequence[Published]) -> list[str]:
    """What tells two sets of published samples apart, in lines that a person can read; empty: nothing does."""
    missing, extra = [], list(found)
    for line in wanted:
        match = next((f for f in extra if not _unlike(line, f)), None)
        if match is None:
            missing.append(line)
        else:
            extra.remove(match)
    out = []
    for line in missing:
        near = min(extra, key=lambda f: len(_unlike(line, f)), default=None)
        if near is not None and len(_unlike(line, near)) <= 3:
            extra.remove(near)
            what = "; ".join(
                f"{path}: {found_!r} instead of {wanted_!r}" for path, wanted_, found_ in _unlike(line, near)
            )
            out.append(f"≠ {_title(line)}: {what}")
        else:
            out.append(f"- missing: {_title(line)}")
    out += [f"+ not expected: {_title(line)}" for line in extra]
    return [*out[:_SHOWN], f"… and {len(out) - _SHOWN} more"] if len(out) > _SHOWN else out


def _unlike(wanted: Any, found: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(path, wanted, found) wherever the wanted value is not there; floats may differ in the last digits."""
    if isinstance(wanted, dict) and isinstance(found, dict) and not path.endswith("resource_metadata"):
        return [
            u for key, value in wanted.items() for u in _unlike(value, found.get(key), f"{path}.{key}" if path else key)
        ]
    if isinstance(wanted, int | float) and isinstance(found, int | float) and not isinstance(wanted, bool):
        return [] if abs(wanted - found) <= 1e-9 * max(abs(wanted), abs(found)) else [(path, wanted, found)]
    return [] if wanted == found or (wanted in ("", None) and found in ("", None)) else [(path, wanted, found)]


def _title(line: Published) -> str:
    sample = line.get("sample") or {}
    shown = [f"{sample.get(k)}" for k in ("name", "volume", "unit", "resource_id", "timestamp") if k in sample]
    return f"{line.get('sink', '?')} → {line.get('publisher', '?')}: {' '.join(shown)}"
