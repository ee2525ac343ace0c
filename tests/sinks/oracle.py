"""What a store must answer, worked out over a plain list of samples."""

import json
import math
import operator
import re
import statistics
from collections import defaultdict

from nephoscope.filters import METADATA, And, Compare, Or
from nephoscope.sample import Sample
from nephoscope.store import Meter, Resource, State, Statistics
from nephoscope.times import SECOND

_TESTS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_OF_RESOURCES = {"resource_id", "user_id", "project_id", "name", "type", "unit", "source", "origin"}


class Oracle:
    """Keeps the first sample of each id."""

    def __init__(self):
        self.by_id: dict[bytes, Sample] = {}

    def write(self, samples) -> int:
        """Returns how many were new."""
        before = len(self.by_id)
        for sample in samples:
            self.by_id.setdefault(sample.id, sample)
        return len(self.by_id) - before

    def expire(self, lifetimes, now):
        """For a store that had these classes from the start."""
        young = [s for s in self.by_id.values() if s.timestamp >= lifetimes.before(lifetimes.class_of(s.name), now)]
        self.by_id = {s.id: s for s in young}

    def samples(self, tree=None):
        return [s for s in self.by_id.values() if tree is None or passes(tree, s)]

    def ordered(self, tree, order):
        out = self.samples(tree)
        named = {name for name, _ in order}
        rest = [("timestamp", "desc"), ("resource_id", "asc"), ("name", "asc"), ("id", "asc")]
        for name, way in reversed([*order, *(r for r in rest if r[0] not in named)]):
            out.sort(key=lambda s: rank(value_of(s, name)), reverse=way == "desc")
        return out

    def resources(self, tree=None):
        out = []
        for resource_id, samples in sorted(self._by_resource(tree).items()):
            newest = max(samples, key=lambda s: (s.timestamp, s.name, s.id))
            out.append(
                Resource(
                    resource_id,
                    newest.user_id,
                    newest.project_id,
                    newest.source,
                    newest.metadata,
                    min(s.timestamp for s in samples),
                    newest.timestamp,
                )
            )
        return out

    def meters(self, tree=None):
        """tree: of resources and meters only, each part of either."""
        out = []
        newest = {r.resource_id: r for r in self.resources(tree)}
        for resource_id, samples in sorted(self._by_resource(tree).items()):
            kinds = {(s.name, s.type, s.unit, s.source) for s in samples if tree is None or _kind_passes(tree, s)}
            resource = newest[resource_id]
            out += [Meter(*k, resource_id, resource.user_id, resource.project_id) for k in sorted(kinds)]
        return out

    def history(self, resource_id):
        times = defaultdict(list)
        for sample in self.by_id.values():
            if sample.resource_id == resource_id:
                times[sample.user_id, sample.project_id, sample.metadata].append(sample.timestamp)
        out = [State(*said, min(t), max(t)) for said, t in times.items()]
        return sorted(out, key=lambda s: (s.first_sample, s.last_sample, s.user_id, s.project_id, s.metadata))

    def _by_resource(self, tree):
        every = defaultdict(list)
        for sample in self.by_id.values():
            every[sample.resource_id].append(sample)
        if tree is None:
            return every
        if reads(tree) <= _OF_RESOURCES | {METADATA}:
            return {r: samples for r, samples in every.items() if _pair_passes(tree, samples)}
        return {r: samples for r, samples in every.items() if any(passes(tree, s) for s in samples)}

    def statistics(self, query, start=None):
        samples = self.samples(query.filter)
        if not samples:
            return []
        anchor = min(s.timestamp for s in samples) if start is None else start
        groups = defaultdict(list)
        for s in samples:
            number = (s.timestamp - anchor) // (query.period * SECOND) if query.period else 0
            key = tuple(json.dumps(value_of(s, g), sort_keys=True) for g in query.groupby)
            groups[number, key].append(s)
        wanted = query.aggregates or ("count", "sum", "avg", "min", "max")
        out = []
        for (number, _), some in groups.items():
            volumes = [s.volume for s in some]
            first, last = min(s.timestamp for s in some), max(s.timestamp for s in some)
            begin = anchor + number * query.period * SECOND
            figures = {
                "count": len(some),
                "sum": math.fsum(volumes),
                "avg": math.fsum(volumes) / len(volumes),
                "min": min(volumes),
                "max": max(volumes),
                "stddev": statistics.pstdev(volumes),
            }
            out.append(
                Statistics(
                    period=query.period,
                    period_start=begin if query.period else first,
                    period_end=begin + query.period * SECOND if query.period else last,
                    duration_start=first,
                    duration_end=last,
                    unit=max((s.timestamp, s.unit) for s in some)[1],
                    groupby={g: value_of(some[0], g) for g in query.groupby},
                    cardinality={
                        a.partition("/")[2]: len({getattr(s, a.partition("/")[2]) for s in some})
                        for a in wanted
                        if "/" in a
                    },
                    **{k: v for k, v in figures.items() if k in wanted},
                )
            )
        return out


def reads(tree):
    if isinstance(tree, Compare):
        return {METADATA if tree.field.startswith(METADATA) else tree.field}
    parts = tree.parts if isinstance(tree, And | Or) else (tree.part,)
    return set().union(*(reads(p) for p in parts))


def value_of(sample, field):
    if field == "id":
        return sample.id.hex()
    if not field.startswith(METADATA):
        return getattr(sample, field)
    return look_up(json.loads(sample.metadata), field.removeprefix(METADATA))


def look_up(node, path):
    if not isinstance(node, dict):
        return None
    if path in node:
        return node[path]
    for i, letter in enumerate(path):
        if letter == ".":
            found = look_up(node.get(path[:i]), path[i + 1 :])
            if found is not None:
                return found
    return None


def rank(value):
    if value is None:
        return 0, 0
    if isinstance(value, bool):
        return 1, value
    if isinstance(value, int | float):
        return 2, value
    return (3, value) if isinstance(value, str) else (4, json.dumps(value, sort_keys=True, separators=(",", ":")))


def passes(tree, sample):
    if isinstance(tree, And):
        return all(passes(p, sample) for p in tree.parts)
    if isinstance(tree, Or):
        return any(passes(p, sample) for p in tree.parts)
    if not isinstance(tree, Compare):
        return not passes(tree.part, sample)
    found = sample.id if tree.field == "id" else value_of(sample, tree.field)
    if tree.op == "in":
        return any(compare(found, "=", v) for v in tree.value)
    if tree.op == "!=":
        return not compare(found, "=", tree.value)
    return compare(found, tree.op, tree.value)


def compare(found, op, value):
    if op == "=~":
        return isinstance(found, str) and bool(re.search(value, found))
    if isinstance(value, bool) or isinstance(found, bool):
        return op == "=" and found is value
    if isinstance(value, int | float) and isinstance(found, str):
        try:
            found = float(found)
        except ValueError:
            return False
    alike = (isinstance(found, str) and isinstance(value, str)) or (
        isinstance(found, bytes) and isinstance(value, bytes)
    )
    if not alike and not (isinstance(found, int | float) and isinstance(value, int | float)):
        return False
    return found == value if op == "=" else _TESTS[op](found, value)


def _pair_passes(tree, samples):
    """A state of a resource with a meter of it, not necessarily in one sample."""
    import msgspec

    return any(
        passes(
            tree,
            msgspec.structs.replace(
                state, name=kind.name, type=kind.type, unit=kind.unit, source=kind.source, origin=kind.origin
            ),
        )
        for state in samples
        for kind in samples
    )


def _kind_passes(tree, sample):
    parts = tree.parts if isinstance(tree, And) else (tree,)
    return all(passes(p, sample) for p in parts if reads(p) <= {"name", "type", "unit", "source", "origin"})
