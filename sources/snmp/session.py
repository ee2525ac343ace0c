"""Single values and columns of tables of one host, whatever the version, with limits to what a host may make us do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from sources.snmp.addresses import Address
from sources.snmp.ber import END

Oid = tuple[int, ...]
Bindings = Sequence[tuple[Oid, Any]]
GET: Final = "get"
BULK: Final = "bulk"
_SCALARS: Final = 48
"""Values in a request for single ones."""
_VALUES: Final = 128
"""Values in an answer of several rows: two or three packets' worth."""
_FIRST_ROWS: Final = 8
_MOST_ROWS: Final = 10_000
_TOO_BIG, _NO_SUCH_NAME = 1, 2
_STATUSES: Final = [
    "noError",
    "tooBig",
    "noSuchName",
    "badValue",
    "readOnly",
    "genErr",
    "noAccess",
    "wrongType",
    "wrongLength",
    "wrongEncoding",
    "wrongValue",
    "noCreation",
    "inconsistentValue",
    "resourceUnavailable",
    "commitFailed",
    "undoFailed",
    "authorizationError",
    "notWritable",
    "inconsistentName",
]
"""RFC 3416's error-status, by number."""


class Request(Protocol):
    """Asks a host once: (GET or BULK, what, rows) to (error status, error index, bindings). BULK of SNMPv1 gives a row."""

    async def __call__(self, kind: str, oids: Iterable[Oid], many: int = 1) -> tuple[int, int, Bindings]:
        """Ask."""


class Session:
    """Requests to one host."""

    def __init__(self, address: Address, request: Request) -> None:
        self._address = address
        self._request = request

    async def get(self, oids: Iterable[Oid]) -> dict[Oid, Any]:
        """The values that there are, of these."""
        wanted = list(oids)
        found: dict[Oid, Any] = {}
        while wanted:
            asked, wanted = wanted[:_SCALARS], wanted[_SCALARS:]
            status, index, bindings = await self._request(GET, asked)
            if status == _TOO_BIG and len(asked) > 1:
                half = len(asked) // 2
                found |= await self.get(asked[:half]) | await self.get(asked[half:])
            elif status == _NO_SUCH_NAME and 0 < index <= len(asked):
                # SNMPv1 names the first that is missing, and gives none.
                del asked[index - 1]
                wanted = asked + wanted
            elif status:
                raise self._error(f"refuses: {_status(status)}")
            else:
                found |= {oid: value for oid, (_, value) in zip(asked, bindings, strict=False) if value is not END}
        return found

    async def walk(self, columns: Sequence[Oid], rows: int = 0) -> dict[Oid, dict[Oid, Any]]:
        """The values of columns of tables, by index. `rows`: how many there may be."""
        found: dict[Oid, dict[Oid, Any]] = {column: {} for column in columns}
        at: dict[Oid, Oid] = {column: column for column in columns}
        wanted = rows + 1 if rows else _FIRST_ROWS
        width = len(at)
        while at:
            asked = list(at)[:width]
            many = max(1, min(wanted, _VALUES // len(asked)))
            status, index, bindings = await self._request(BULK, [at[column] for column in asked], many)
            if status == _TOO_BIG and (many > 1 or len(asked) > 1):
                wanted, width = max(1, many // 2), width if many > 1 else len(asked) // 2
                continue
            if status == _NO_SUCH_NAME and 0 < index <= len(asked):
                del at[asked[index - 1]]  # SNMPv1's way to say that nothing comes after it.
                continue
            if status:
                raise self._error(f"refuses: {_status(status)}")
            if not bindings:
                raise self._error("answers with nothing in it")
            for i, (oid, value) in enumerate(bindings):
                column = asked[i % len(asked)]
                if column not in at:
                    continue
                if value is END or oid[: len(column)] != column:
                    del at[column]
                elif oid <= at[column]:
                    raise self._error("does not go forward: a walk would have no end")
                else:
                    at[column] = oid
                    found[column][oid[len(column) :]] = value
            done = max((len(found[column]) for column in at), default=0)
            if done > _MOST_ROWS:
                raise self._error(f"has no end: more than {_MOST_ROWS} rows")
            wanted = rows + 1 - done if done <= rows else _FIRST_ROWS
        return found

    def _error(self, words: str) -> ConnectionError:
        return ConnectionError(f"{self._address.place} {words}")


def _status(status: int) -> str:
    return _STATUSES[status] if 0 <= status < len(_STATUSES) else f"error status {status}"
