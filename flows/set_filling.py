"""One call's work on the open sets of an arithmetic: rows fill them, what is complete is computed and handed out, what is due is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flows.interning import I32, I64, as_slice, numbers_of
from flows.plan import PlanStep
from flows.rows import Rows, Watermarks, join_rows, pool_block
from flows.set_columns import KeptColumns, RowColumns, Volumes
from flows.sets import KEPT, TEXTS, ArithmeticState, Held, Key, Pane, new_pane
from flows.target import unusable
from flows.transformer import Context
from nephoscope import identity
from nephoscope.times import NEVER

if TYPE_CHECKING:
    from flows.arithmetic import Arithmetic


class Work:
    """One call's work on a state."""

    def __init__(
        self,
        step: PlanStep,
        program: Arithmetic,
        state: ArithmeticState,
        rows: Rows,
        meter: I64,
        context: Context,
    ) -> None:
        self.step, self.program, self.state, self.rows, self.meter = step, program, state, rows, meter
        self.context, self.strings, self.source = context, context.strings, context.source
        self.out: list[Rows] = []
        self.causes: list[I64] = []
        self.full = np.uint64((1 << len(program.meters)) - 1)
        self.resource: I32
        self.period: I64
        self.end: I64
        self.expiry: I64
        self.watermark: I64
        self.memo: dict[str, Any]
        self.touched: set[Key] = set()
        self.in_order = False
        """Whether what is published lies in log order already."""

    def result(self) -> Rows:
        """What was published, in order; open sets no longer refer to this call."""
        self.keep()
        if len(self.out) == 1 and self.in_order:
            return self.out[0]
        return join_rows([*self.out, self.rows.take(slice(0, 0))], self.strings, [*self.causes, self.rows.at[:0]])

    def add(self, start: int, stop: int) -> None:
        """Rows start..stop, during which no pane expires."""
        period = self.period[start:stop]
        if (period == period[0]).all():
            self.add_to_period(int(period[0]), np.arange(start, stop))
            return
        for value in np.unique(period).tolist():
            self.add_to_period(value, start + np.flatnonzero(period == value))

    def add_to_period(self, period: int, index: I64) -> bool:
        """Rows of one period: each to the open set of its resource, or to a new one. Whether all went to one pane."""
        panes = [pane for pane in self.state.panes.values() if pane.period == period]
        # Where all rows would open sets of one pane, its end and expiry are given once.
        end, expiry = (v if len(v) == 1 else v[index] for v in (self.end, self.expiry))
        if (end == end[0]).all() and (expiry == expiry[0]).all():
            key = period, int(end[0]), int(expiry[0])
            if not panes or (len(panes) == 1 and panes[0].key == key):
                self.add_to_pane(key, index)
                return True
        end, expiry = (np.broadcast_to(v, len(index)) for v in (end, expiry))
        resource = self.resource[index]
        left = np.ones(len(index), bool)
        parts: dict[Key, list[I64]] = {}
        for pane in panes:
            known = left & np.isin(resource, pane.index.keys)
            if known.any():
                parts[pane.key] = [index[known]]
                left &= ~known
        if left.any():
            # A resource's first row decides which pane its set is in.
            _, first, inverse = np.unique(resource[left], return_index=True, return_inverse=True)
            opened = np.stack([end[left][first], expiry[left][first]], 1)[inverse.reshape(-1)]
            for pair in np.unique(opened, axis=0):
                rows = index[left][(opened == pair).all(1)]
                parts.setdefault((period, int(pair[0]), int(pair[1])), []).append(rows)
        for key, rows_of in parts.items():
            self.add_to_pane(key, np.sort(np.concatenate(rows_of)))
        return len(parts) == 1

    def add_to_pane(self, key: Key, index: I64) -> None:
        """Rows whose sets are in this pane, or will be."""
        pane = self.state.panes.get(key)
        if pane is None:
            program = self.program
            pane = self.state.panes[key] = new_pane(*key, len(program.meters), program.attributed)
        self.touched.add(key)
        # Slots are dealt in the order of first arrival.
        whole = not pane.count and len(index) == len(self.meter)
        dealt = self.memo.get("dealt") if whole else None
        if dealt is not None:
            (keys, slots, size), slot = dealt
            pane.index.adopt(keys, slots, size)
        else:
            slot = pane.index.find(self.resource[index].astype(np.int64)).astype(np.int64)
            if whole:
                self.memo["dealt"] = pane.index.dump(), slot
        pane.columns.ensure(pane.count)
        if whole and not self.program.hold and self.add_all(pane, slot):
            return
        pane.columns["resource"][slot] = self.resource[index]
        # A row replaces the set's value of its meter until the set is complete. So a run ends before a row that would: whether the set is
        # complete by then depends on the rows before it.
        meter = self.meter[index]
        pair = slot * len(self.program.meters) + meter
        have = pane.columns["have"]
        begin = 0
        while begin < len(index):
            end = begin + _distinct_run(pair[begin:], pane.count * len(self.program.meters))
            replaces = np.flatnonzero(have[slot[begin:end]] >> meter[begin:end].astype(np.uint64) & np.uint64(1))
            replaces = replaces[replaces > 0]
            if len(replaces):
                end = begin + int(replaces[0])
            self.add_run(pane, index[begin:end], slot[begin:end])
            begin = end

    def add_all(self, pane: Pane, slot: I64) -> bool:
        """All rows of the call, to an empty pane: which sets they complete is known from before. False: a meter comes twice for a set."""
        known = self.memo.get("all")
        if known is None:
            known = self.memo["all"] = self.plan_all(pane, slot)
        if not known:
            return False
        resource, have, parts, ready, trigger, left = known
        rows, columns = self.rows, pane.columns
        columns["resource"][: pane.count], columns["have"][: pane.count] = resource, have
        late = rows.late.any()
        for m, at, of in parts:
            columns[f"v{m}"][at] = rows.volume[of]
            if late:
                columns[f"late{m}"][at] = rows.late[of]
            if m in self.program.attributed:
                columns[f"ref{m}"][at] = numbers_of(of)
        if left:
            columns["time"][slot], columns["polled"][slot] = rows.time, rows.polled
        columns["done"][ready] = True
        if len(trigger):
            self.publish(pane, ready, trigger, rows.position[trigger], rows.time[trigger], rows.polled[trigger])
        return True

    def plan_all(self, pane: Pane, slot: I64) -> Any:
        """What add_all needs to know: it follows from the order of the rows' meters and resources."""
        meters = len(self.program.meters)
        if _distinct_run(slot * meters + self.meter, pane.count * meters) < len(slot):
            return ()
        have, resource, last = (
            np.zeros(pane.count, np.uint64),
            np.zeros(pane.count, np.int32),
            np.zeros(pane.count, np.int64),
        )
        parts = []
        for m in range(meters):
            of = np.flatnonzero(self.meter == m)
            have[slot[of]] |= np.uint64(1 << m)
            if len(of):
                parts.append((m, as_slice(slot[of]), as_slice(of)))
        resource[slot] = self.resource
        last[slot] = np.arange(len(slot))
        complete = np.flatnonzero(have == self.full)
        ready = complete[np.argsort(last[complete], kind="stable")]
        return resource, have, parts, as_slice(ready), last[ready], len(complete) < pane.count

    def add_run(self, pane: Pane, index: I64, slot: I64) -> None:
        """Rows of one pane in which no (set, meter) occurs twice."""
        rows, columns = self.rows, pane.columns
        meter = self.meter[index]
        done = columns["done"][slot]
        if done.any():
            self.context.count("already_published", int(done.sum()))
            if self.program.hold:
                self.remember(index[done])
            index, slot, meter = index[~done], slot[~done], meter[~done]
            if not len(index):
                return
        if self.program.hold:
            self.remember(index)
        have = columns["have"]
        for m in range(len(self.program.meters)):
            of = meter == m
            at, rows_of = slot[of], index[of]
            if not len(at):
                continue
            columns[f"v{m}"][at] = rows.volume[rows_of]
            columns[f"late{m}"][at] = rows.late[rows_of]
            have[at] |= np.uint64(1 << m)
            if m in self.program.attributed:
                columns[f"ref{m}"][at] = rows_of
        complete = have[slot] == self.full
        if not complete.all():
            # What a set that hold fills may need of its last row.
            columns["time"][slot] = rows.time[index]
            columns["polled"][slot] = rows.polled[index]
        if complete.any():
            # The row that completes a set is its last one here.
            last = np.full(pane.count, -1, np.int64)
            last[slot[complete]] = index[complete]
            ready = np.flatnonzero(last >= 0)
            trigger = last[ready]
            if (trigger[1:] < trigger[:-1]).any():
                order = np.argsort(trigger, kind="stable")
                ready, trigger = ready[order], trigger[order]
            columns["done"][ready] = True
            self.publish(pane, ready, trigger, rows.position[trigger], rows.time[trigger], rows.polled[trigger])

    def publish(self, pane: Pane, slots: Any, cause: I64, position: I64, time: I64, polled: I64) -> None:
        """Compute and emit complete sets."""
        program, columns, rows, strings = self.program, pane.columns, self.rows, self.strings
        resource = columns["resource"][slots]
        values = {name: columns[f"v{m}"][slots] for m, name in enumerate(program.meters)}
        reference = {m: columns[f"ref{m}"][slots] for m in program.attributed}
        if any((r < 0).any() for r in reference.values()):
            self.keep_pane(pane, slots)
            user, project, metadata = (pane.kept[f"{c}0"][slots] for c in ("user", "project", "metadata"))
            block = pool_block(resource, user, project, metadata, strings)
            at: I64 = np.arange(len(cause))
            unit, kind = pane.kept["unit0"][slots], pane.kept["kind0"][slots]
            views = {
                name: KeptColumns(self, pane, slots, m, values[name]) if m in reference else Volumes(values[name])
                for m, name in enumerate(program.meters)
            }
        else:
            block, at = rows.block, rows.at[reference[0]]
            unit, kind = rows.unit[reference[0]], rows.kind[reference[0]]
            views = {
                name: RowColumns(self, reference[m], values[name]) if m in reference else Volumes(values[name])
                for m, name in enumerate(program.meters)
            }
        volume, failed = program.expression.evaluate(views)
        target = program.target
        if target.maximum != np.inf:
            volume = np.minimum(volume, target.maximum)
        bad = unusable(volume, failed if failed.any() else None, self.context.counts)
        lanes = self.memo.get("lanes")
        if lanes is None or lanes[0] is not cause:
            # The memo's own array of causes comes back each time that the same rows complete the same sets.
            lanes = self.memo["lanes"] = cause, strings.resource_lanes(resource)
        keys = lanes[1]
        base = identity.base_key(("join", self.step.sink, self.step.position))
        n = len(cause)
        hi, lo = identity.keyed(*base, keys[:, 0], keys[:, 1], np.full(n, pane.period))
        name = strings.names.number(target.name or program.meters[0])
        late = columns["late0"][slots].copy()
        for m in range(1, len(program.meters)):
            late |= columns[f"late{m}"][slots]
        result = Rows(
            block,
            at,
            position,
            np.full(n, name, np.int32),
            kind if target.kind < 0 else np.full(n, target.kind, np.int8),
            target.units(unit, strings.units),
            np.full(n, self.source, np.int32),
            np.full(n, strings.origins.number(identity.join_origin(self.step.sink, self.step.position)), np.int32),
            volume,
            time,
            np.full(n, NEVER),
            hi,
            lo,
            late,
            polled,
        )
        self.out.append(result if bad is None else result.take(~bad))
        self.causes.append(cause if bad is None else cause[~bad])

    def expire(self, watermark: int, marks: Watermarks) -> None:
        """Close the panes whose time has come."""
        for key in sorted(key for key, pane in self.state.panes.items() if pane.expiry <= watermark):
            pane = self.state.panes.pop(key)
            open_sets = np.flatnonzero(~pane.columns["done"][: pane.count])
            if self.program.hold and len(open_sets):
                open_sets = self.fill(pane, open_sets, marks.reaches(pane.expiry))
            self.context.count("incomplete", len(open_sets))

    def fill(self, pane: Pane, slots: I64, position: int) -> I64:
        """Publish those of these sets that held rows complete; the rest is returned."""
        program, columns = self.program, pane.columns
        self.keep_pane(pane, slots)
        left, complete = [], []
        oldest = pane.expiry - program.hold - program.lateness - program.interval
        for slot in slots.tolist():
            resource = int(columns["resource"][slot])
            found: list[tuple[int, Held]] = []
            for m in range(len(program.meters)):
                if not int(columns["have"][slot]) >> m & 1:
                    candidates = [
                        h
                        for h in self.state.held.get((resource, m), [])
                        if pane.period - program.hold < h.time < pane.end and h.time >= oldest
                    ]
                    if not candidates:
                        break
                    newest = max(h.time for h in candidates)
                    found.append((m, [h for h in candidates if h.time == newest][-1]))
            else:
                for m, held in found:
                    columns[f"v{m}"][slot], columns[f"late{m}"][slot] = held.volume, held.late
                    if m in program.attributed:
                        for name, value in zip(KEPT, held.kept, strict=True):
                            pane.kept[f"{name}{m}"][slot] = value
                complete.append(slot)
                continue
            left.append(slot)
        if complete:
            ready = np.array(complete)
            where = np.full(len(ready), position)
            nothing = np.full(len(ready), -1)
            self.publish(pane, ready, nothing, where, columns["time"][ready].copy(), columns["polled"][ready].copy())
        return np.array(left, np.int64)

    def remember(self, index: I64) -> None:
        """Rows that hold may need; what is too old for any pane is dropped."""
        program, rows = self.program, self.rows
        texts = {c: rows.texts(f, self.strings) for c, f in TEXTS.items()}
        for i in index.tolist():
            kept = (
                *(int(texts[c][i]) for c in ("user", "project", "metadata")),
                int(rows.unit[i]),
                int(rows.kind[i]),
                int(rows.source[i]),
                int(rows.time[i]),
                int(rows.hi[i]),
                int(rows.lo[i]),
            )
            key = (int(self.resource[i]), int(self.meter[i]))
            held = self.state.held.setdefault(key, [])
            held.append(Held(int(rows.time[i]), float(rows.volume[i]), bool(rows.late[i]), kept))
            if len(held) > 8:
                oldest = int(self.watermark[i]) - program.hold - program.lateness - program.interval
                held[:] = [h for h in held if h.time >= oldest]

    def keep(self) -> None:
        """Turn what open sets refer to in this call's block into the partition's own numbers."""
        for key in self.touched & self.state.panes.keys():
            pane = self.state.panes[key]
            self.keep_pane(pane, np.flatnonzero(~pane.columns["done"][: pane.count]))
            for m in self.program.attributed:
                pane.columns[f"ref{m}"][: pane.count] = -1

    def keep_pane(self, pane: Pane, slots: Any) -> None:
        """The same for some sets of a pane."""
        columns, rows, kept = pane.columns, self.rows, pane.kept
        slots = numbers_of(slots)
        if len(slots):
            kept.ensure(pane.columns.capacity)
        for m in self.program.attributed:
            reference = columns[f"ref{m}"][slots]
            fresh = reference >= 0
            if not fresh.any():
                continue
            at, i = slots[fresh], reference[fresh]
            for name, column in TEXTS.items():
                words = self.strings.map("texts", rows.block.dictionary(column))
                kept[f"{name}{m}"][at] = words[rows.block.codes(column)[rows.at[i]]]
            for name in ("unit", "kind", "source", "time", "hi", "lo"):
                kept[f"{name}{m}"][at] = getattr(rows, name)[i]
            columns[f"ref{m}"][at] = -1


def _distinct_run(pairs: I64, size: int) -> int:
    """How many leading elements are distinct; all are below `size`."""
    seen = np.empty(size, np.int64)
    numbers = np.arange(len(pairs))
    seen[pairs[::-1]] = numbers[::-1]  # The first of each stays.
    again = np.flatnonzero(seen[pairs] != numbers)
    return int(again[0]) if len(again) else len(pairs)
