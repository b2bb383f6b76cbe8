"""Reads the evidence beside the topics: the ledger's tables by SQL of its own, the stand-in and metrics pages by HTTP.

All of the ledger is read in one snapshot. What cannot be read completely is an error and never a verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from sys import intern
from typing import Any, Final

import asyncpg
import httpx

from sandbox.auditor.evidence import (
    Evidence,
    EvidenceIncomplete,
    Intake,
    Leak,
    LedgerRow,
    Position,
    StandInEntry,
)
from sandbox.auditor.leak import PIECE_BYTES, Artefact, CardNumberSearch
from schemas.topics import topic_name

__all__ = ["EvidenceIncomplete", "read_ledger", "read_stand_in", "scan_pages"]

STATEMENT_SECONDS_MAX: Final = 1_800.0
"""One table. A million payouts with their history are some GB, copied and searched at tens of MB a second."""
CALL_SECONDS_MAX: Final = 20.0
"""One question to the stand-in or a metrics page, and connecting to the database."""
STAND_IN_PAGE: Final = 5_000
STAND_IN_TOLD_ENTRIES: Final = 20 * STAND_IN_PAGE
ROWS_FETCHED: Final = 2_000
REQUESTS: Final = "payout_requests"

Say = Callable[[str], None]

# The ledger, by its own tables.

_ROWS: Final = """
SELECT payout_id, source_topic, source_partition, source_offset, amount_minor, currency, state, received_at,
       first_intent_at, held, compensation, compensation_at, compensation_executor, compensation_reference
FROM payouts
"""
_INTAKE: Final = """
SELECT topic, partition_number, record_offset, disposition, payout_id FROM intake WHERE topic = $1
"""
_UNDONE: Final = """
SELECT payout_id, max(version) AS version FROM history
WHERE transition = 'resolution_undone' AND payout_id IS NOT NULL GROUP BY payout_id
"""
_TABLES: Final = """
SELECT n.nspname AS schema_name, c.relname AS table_name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
ORDER BY 1, 2
"""
_COLUMNS: Final = """
SELECT attname FROM pg_attribute
WHERE attrelid = format('%I.%I', $1::text, $2::text)::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""


async def read_ledger(
    evidence: Evidence,
    search: CardNumberSearch,
    database_url: str,
    *,
    topic_prefix: str = "",
    say: Say = lambda _: None,
) -> None:
    """Rows and dispositions into the evidence, and every column of every table searched, in one snapshot.

    Raises EvidenceIncomplete.
    """
    try:
        connection = await asyncpg.connect(
            database_url, timeout=CALL_SECONDS_MAX, command_timeout=STATEMENT_SECONDS_MAX, statement_cache_size=0
        )
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await _read_rows(evidence, connection, topic_name(REQUESTS, topic_prefix))
                for table in await connection.fetch(_TABLES):
                    table_leaks = await _scan_table(search, connection, table["schema_name"], table["table_name"], say)
                    evidence.leaks.extend(table_leaks)
        finally:
            await connection.close(timeout=CALL_SECONDS_MAX)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise EvidenceIncomplete(
            f"the ledger could not be read ({type(error).__name__}): is the database up, and was "
            "`payouts ledger migrate` run?"
        ) from error


async def _read_rows(evidence: Evidence, connection: asyncpg.Connection[Any], request_topic: str) -> None:
    undone = {line["payout_id"]: line["version"] for line in await connection.fetch(_UNDONE)}
    async for row in connection.cursor(_ROWS, prefetch=ROWS_FETCHED):
        evidence.rows.append(_ledger_row(row, undone))
    async for line in connection.cursor(_INTAKE, request_topic, prefetch=ROWS_FETCHED):
        position = Position(intern(line["topic"]), line["partition_number"], line["record_offset"])
        payout_id = line["payout_id"]
        evidence.intake.append(
            Intake(position, intern(line["disposition"]), None if payout_id is None else intern(payout_id))
        )


def _ledger_row(row: Mapping[str, Any], undone: Mapping[str, int]) -> LedgerRow:
    executor = row["compensation_executor"]
    return LedgerRow(
        payout_id=intern(row["payout_id"]),
        position=Position(intern(row["source_topic"]), row["source_partition"], row["source_offset"]),
        amount_minor=row["amount_minor"],
        currency=intern(row["currency"]),
        state=intern(row["state"]),
        received_at=row["received_at"],
        first_intent_at=row["first_intent_at"],
        held=row["held"],
        compensation=intern(row["compensation"]),
        compensation_at=row["compensation_at"],
        compensation_executor=None if executor is None else intern(executor),
        compensation_reference=row["compensation_reference"],
        undone_version=undone.get(row["payout_id"], 0),
    )


async def _scan_table(
    search: CardNumberSearch, connection: asyncpg.Connection[Any], schema_name: str, table_name: str, say: Say
) -> list[Leak]:
    name = table_name if schema_name == "public" else f"{schema_name}.{table_name}"
    columns = [line["attname"] for line in await connection.fetch(_COLUMNS, schema_name, table_name)]
    table = CopiedTable(f"table {name}", search, columns)

    async def take(data: bytes) -> None:
        table.add(data)

    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema_name, table_name))
    await connection.copy_from_query(f"SELECT * FROM {quoted}", output=take, timeout=STATEMENT_SECONDS_MAX)  # noqa: S608 - quoted
    leaks = table.finish()
    say(f"table {name}: {table.rows} rows searched")
    return leaks


class CopiedTable:
    """Searches what `COPY … TO` prints (text format: a line a row, a tab between columns), a block of lines at a time.

    A block in which nothing stands out is done with in one go; any other is taken apart into rows and columns, and
    each value searched with its column's name in front, as in a JSON field: the name says what a number is.
    """

    # What the text format writes for a byte string: hexadecimal, as long as a number can be.
    _BYTES: Final = re.compile(rb"\\x([0-9a-f]{24,})")

    def __init__(self, name: str, search: CardNumberSearch, columns: Sequence[str]) -> None:
        self.rows = 0
        self._artefact = Artefact(name, search)
        self._search = search
        self._columns = columns
        self._held: list[bytes] = []
        self._held_bytes = 0

    def add(self, data: bytes) -> None:
        """The next bytes of the copy; rows may be cut anywhere."""
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= PIECE_BYTES:
            block = b"".join(self._held)
            whole = block.rfind(b"\n") + 1
            self._held, self._held_bytes = [block[whole:]], len(block) - whole
            self._search_block(block[:whole])

    def finish(self) -> list[Leak]:
        """The leaks of the table."""
        self._search_block(b"".join(self._held))
        self._held = []
        return self._artefact.finish()

    def _search_block(self, block: bytes) -> None:
        before, self.rows = self.rows, self.rows + block.count(b"\n")
        block = block.replace(b"\\\\", b"\\")
        if not self._stands_out(block):
            return
        for number, line in enumerate(block.split(b"\n"), before + 1):
            for column, value in zip(self._columns, line.split(b"\t"), strict=False):
                self._add_value(f"row {number}, column {column}", column, value)

    def _stands_out(self, block: bytes) -> bool:
        unpacked = b"\n".join(_unpacked(found) for found in self._BYTES.findall(block))
        hits = (self._search.own(block), self._search.suspicious(block), self._search.own(unpacked))
        return any(next(found, None) is not None for found in hits)

    def _add_value(self, where: str, column: str, value: bytes) -> None:
        self._artefact.add(where, column.encode() + b"=" + value, is_text=True)
        packed = self._BYTES.fullmatch(value)
        if packed is not None:
            self._artefact.add(where, _unpacked(packed[1]), is_text=False)


def _unpacked(digits: bytes) -> bytes:
    """A text that only looks like bytes may have an odd digit."""
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode())


# Metrics pages.


def scan_pages(search: CardNumberSearch, addresses: Collection[str]) -> list[Leak]:
    """Search what HTTP addresses answer now, such as the metrics pages of workers. Raises EvidenceIncomplete."""
    leaks: list[Leak] = []
    for address in addresses:
        try:
            answer = httpx.get(address, timeout=CALL_SECONDS_MAX, trust_env=False).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EvidenceIncomplete(
                f"{address} could not be read ({type(error).__name__}): is the worker up? A page of one that is gone "
                "is searched as a file"
            ) from error
        artefact = Artefact(f"page {address}", search)
        artefact.add("its text", answer.content, is_text=True)
        leaks.extend(artefact.finish())
    return leaks


# The stand-in.


def read_stand_in(admin_url: str, *, after: int = 0, say: Say = lambda _: None) -> list[StandInEntry]:
    """Entries of the stand-in's ledger with an id above `after`, oldest first. Raises EvidenceIncomplete."""
    entries: list[StandInEntry] = []
    try:
        # Its address is on this machine: a proxy of the environment is none of its business.
        with httpx.Client(base_url=admin_url, timeout=CALL_SECONDS_MAX, trust_env=False) as client:
            while True:
                answer = client.get("/sandbox/ledger", params={"after": after, "limit": STAND_IN_PAGE})
                page = answer.raise_for_status().json()
                entries.extend(_entry(row) for row in page["entries"])
                after = page["next_after"]
                if not page["has_more"]:
                    return entries
                if len(entries) % STAND_IN_TOLD_ENTRIES == 0:
                    say(f"stand-in: {len(entries)} entries read")
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise EvidenceIncomplete(
            f"the stand-in's ledger at {admin_url} could not be read ({type(error).__name__}): is it running?"
        ) from error


def _entry(row: Mapping[str, Any]) -> StandInEntry:
    return StandInEntry(
        entry_id=int(row["id"]),
        operation=intern(row["operation"]),
        money_moved=bool(row["money_moved"]),
        amount=str(row["amount"]),
        currency=intern(row["currency"]),
        recipient_fingerprint=intern(row["recipient_fingerprint"]),
        sender_reference=row["sender_reference"],
        transaction_identifier=str(row["transaction_identifier"]),
    )
