"""An event loop in a thread of its own: what many calls wait for at once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_RESOLVERS = 32
"""Threads for host names: a name server that does not answer holds one for a while."""


class Loop:
    """Runs coroutines for any thread. The thread begins with the first one, and keeps no process alive."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Start it; from any thread."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_exception_handler(_unexpected)
                self._loop.set_default_executor(ThreadPoolExecutor(_RESOLVERS, f"{self._name}-names"))
                self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Cancel what runs, do the last thing, and end the thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_end(loop, last), loop)
        thread.join(5.0)
        if not thread.is_alive():
            loop.close()


async def _end(loop: asyncio.AbstractEventLoop, last: Callable[[], Awaitable[None]]) -> None:
    rest = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    try:
        await last()
    finally:
        loop.call_soon(loop.stop)


def _unexpected(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a datagram made the library raise is told by the request that gets no answer."""
    _log.debug("in the event loop: %s: %r", context.get("message"), context.get("exception"))
