"""The stores that the suite runs over: one module here for each kind, found by itself.

A module says in `KIND` how to get an empty store of its kind, and how much it can bear.
"""

import importlib
import pkgutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from nephoscope import registry


@dataclass(frozen=True)
class Kind:
    """One kind of store."""

    name: str
    place: Callable[[Path], AbstractContextManager[Callable[[], AbstractContextManager[str]]]]
    """Given a folder that all workers of the run share, starts the server; then each call gives the URL of an empty store for a while."""
    examples: int
    """How many examples of a property it can bear in a second or three."""
    small_steps: Callable[..., AbstractContextManager[None]] = lambda _, *, pauses=False: nullcontext()
    """Lets it expire so many records a step, without pauses unless they are wanted."""
    marks: tuple[str, ...] = ()
    """Markers of its tests."""

    def open(self, url, lifetimes=None):
        """The store at a URL, found as everybody finds it."""
        return registry.load_for(registry.STORE, url)(url, lifetimes)


KINDS = {
    kind.name: kind
    for kind in (importlib.import_module(f"{__name__}.{m.name}").KIND for m in pkgutil.iter_modules(__path__))
}
