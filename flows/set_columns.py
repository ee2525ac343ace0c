"""What an expression reads of the sets that became complete: a meter's columns, from this call's rows or from what a pane keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flows.interning import I32, I64
from flows.rows import F64
from flows.sets import Pane
from nephoscope import identity
from nephoscope.sample import TYPES

if TYPE_CHECKING:
    from flows.set_filling import Work


class Volumes:
    """A meter of which only the volume is used."""

    def __init__(self, volume: F64) -> None:
        self.volume = volume
        self.length = len(volume)

    def numbers(self, name: str) -> F64:
        """Volumes, or timestamps in seconds since 1970."""
        if name != "volume":
            raise KeyError(name)
        return self.volume

    def words(self, name: str) -> tuple[I32, Any]:
        """(numbers, texts by number) of an attribute. KeyError where there is none."""
        raise KeyError(name)


class RowColumns(Volumes):
    """A meter's attributes, from the rows of this call."""

    def __init__(self, work: Work, index: I64, volume: F64) -> None:
        super().__init__(volume)
        self.work, self.index = work, index

    def numbers(self, name: str) -> F64:
        """As Volumes has it."""
        return self.work.rows.time[self.index] / 1e6 if name == "timestamp" else self.volume

    def words(self, name: str) -> tuple[I32, Any]:
        """As Volumes has it, of any attribute."""
        from flows.target import ScaleColumns

        return ScaleColumns(self.work.rows.take(self.index), self.work.strings).words(name)


class KeptColumns(Volumes):
    """A meter's attributes, from what the pane keeps."""

    def __init__(self, work: Work, pane: Pane, slots: I64, meter: int, volume: F64) -> None:
        super().__init__(volume)
        self.work, self.pane, self.slots, self.meter = work, pane, slots, meter

    def column(self, name: str) -> npt.NDArray[Any]:
        """What the pane keeps of this meter."""
        return self.pane.kept[f"{name}{self.meter}"][self.slots]

    def numbers(self, name: str) -> F64:
        """As Volumes has it."""
        return self.column("time") / 1e6 if name == "timestamp" else self.volume

    def words(self, name: str) -> tuple[I32, Any]:
        """As Volumes has it, of any attribute."""
        strings = self.work.strings
        match name:
            case "name":
                return np.zeros(self.length, np.int32), [self.work.program.meters[self.meter]]
            case "type":
                return self.column("kind").astype(np.int32), TYPES
            case "unit" | "source":
                return self.column(name), getattr(strings, name + "s").values
            case "resource_id":
                return self.pane.columns["resource"][self.slots], strings.resources.values
            case "id":
                raw = identity.pack(self.column("hi"), self.column("lo"))
                return np.arange(self.length, dtype=np.int32), [identity.format_id(i.tobytes()) for i in raw]
        stem = {"user_id": "user", "project_id": "project"}.get(name, "metadata")
        return self.column(stem), strings.texts.values
