"""What the stand-in remembers: its own append-only ledger, in SQLite, durable before any answer leaves.

One thread writes and commits in small groups, so that several hundred calls a second share one fsync; reads
go through a second connection that cannot write. Nothing here ever sees a card number.
"""

import asyncio
import contextlib
import datetime
import json
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

# A commit of this many effects still takes milliseconds; more would only make the first of them wait.
GROUP_MAX: Final = 256
# Ours is the only writer (a file lock sees to it); this covers a tool that opens the file to read.
BUSY_TIMEOUT_SECONDS: Final = 10.0

ENTRY_COLUMNS: Final = (
    "at_ms",
    "operation",
    "money_moved",
    "transaction_identifier",
    "acquiring_bin",
    "stan",
    "rrn",
    "id_code",
    "terminal_id",
    "client_transaction_id",
    "sender_reference",
    "amount",
    "currency",
    "recipient_fingerprint",
    "last4",
    "action_code",
    "original_action_code",
    "duplicate_of",
    "approval_code",
    "response_code",
    "query_status",
    "status_identifier",
    "response",
)
REQUEST_COLUMNS: Final = (
    "at_ms",
    "operation",
    "acquiring_bin",
    "stan",
    "rrn",
    "id_code",
    "terminal_id",
    "client_transaction_id",
    "sender_reference",
    "http_status",
    "fault",
)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    operation TEXT NOT NULL CHECK (
        operation IN ('push', 'funding', 'reverse', 'adjustment', 'account', 'account_return')
    ),
    money_moved INTEGER NOT NULL CHECK (money_moved IN (0, 1)),
    transaction_identifier TEXT NOT NULL,
    acquiring_bin TEXT NOT NULL,
    stan TEXT NOT NULL,
    rrn TEXT NOT NULL,
    id_code TEXT,
    terminal_id TEXT,
    client_transaction_id TEXT,
    sender_reference TEXT,
    amount TEXT NOT NULL,
    currency TEXT NOT NULL,
    recipient_fingerprint TEXT NOT NULL,
    last4 TEXT,
    action_code TEXT NOT NULL,
    original_action_code TEXT,
    duplicate_of INTEGER REFERENCES entries (id),
    approval_code TEXT,
    response_code TEXT NOT NULL,
    query_status TEXT NOT NULL,
    status_identifier TEXT,
    response TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS entries_by_numbers ON entries (stan, rrn);
CREATE INDEX IF NOT EXISTS entries_by_identifier ON entries (transaction_identifier);
CREATE INDEX IF NOT EXISTS entries_by_payout ON entries (sender_reference);
CREATE INDEX IF NOT EXISTS entries_by_status ON entries (status_identifier);
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    operation TEXT NOT NULL,
    acquiring_bin TEXT,
    stan TEXT,
    rrn TEXT,
    id_code TEXT,
    terminal_id TEXT,
    client_transaction_id TEXT,
    sender_reference TEXT,
    http_status INTEGER,
    fault TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS requests_by_numbers ON requests (stan, rrn);
CREATE TABLE IF NOT EXISTS pending (
    status_identifier TEXT PRIMARY KEY,
    accepted_at_ms INTEGER NOT NULL,
    due_at_ms INTEGER NOT NULL,
    draft TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS account_payouts (
    payout_id TEXT PRIMARY KEY,
    client_reference_id TEXT NOT NULL,
    initiating_party_id TEXT NOT NULL,
    accepted_at_ms INTEGER NOT NULL,
    payout TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS account_payouts_by_reference ON account_payouts (client_reference_id);
CREATE TABLE IF NOT EXISTS account_cancellations (
    payout_id TEXT PRIMARY KEY,
    asked_at_ms INTEGER NOT NULL,
    decided_at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS account_dues (
    payout_id TEXT NOT NULL,
    due_at_ms INTEGER NOT NULL,
    operation TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS account_dues_by_time ON account_dues (due_at_ms);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS fault_counts (
    rule INTEGER NOT NULL,
    payout TEXT NOT NULL,
    draws INTEGER NOT NULL,
    hits INTEGER NOT NULL,
    PRIMARY KEY (rule, payout)
) STRICT;
"""


_APPEND_ONLY: Final = """
CREATE TRIGGER IF NOT EXISTS {table}_refuse_update BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only: no row is ever changed'); END;
CREATE TRIGGER IF NOT EXISTS {table}_refuse_delete BEFORE DELETE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only: no row is ever deleted'); END;
CREATE TRIGGER IF NOT EXISTS {table}_refuse_replace BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, '{table} is append-only: no row is ever replaced'); END;
"""

Table = Literal["entries", "requests"]
_PAGES: Final[dict[Table, str]] = {
    "entries": "SELECT * FROM entries WHERE id > ? ORDER BY id LIMIT ?",
    "requests": "SELECT * FROM requests WHERE id > ? ORDER BY id LIMIT ?",
}
_PAGES_OF_PAYOUT: Final[dict[Table, str]] = {
    "entries": "SELECT * FROM entries WHERE id > ? AND sender_reference = ? ORDER BY id LIMIT ?",
    "requests": "SELECT * FROM requests WHERE id > ? AND sender_reference = ? ORDER BY id LIMIT ?",
}
_MOVED: Final = """
SELECT * FROM entries
WHERE money_moved = 1 AND operation IN ('push', 'funding', 'reverse', 'adjustment') AND at_ms >= ? AND at_ms < ?
ORDER BY id LIMIT ? OFFSET ?
"""
_COUNTS: Final = """
SELECT (SELECT count(*) FROM entries) AS entries,
       (SELECT count(*) FROM requests) AS requests,
       (SELECT count(*) FROM pending) AS pending
"""


def _insertion(table: Table, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - our own names


_INSERT_ENTRY: Final = _insertion("entries", ENTRY_COLUMNS)
_INSERT_REQUEST: Final = _insertion("requests", REQUEST_COLUMNS)

T = TypeVar("T")
Row = dict[str, Any]
Job = Callable[[sqlite3.Connection], Any]
_logger = logging.getLogger(__name__)


def connect(path: Path) -> sqlite3.Connection:
    """A connection of the writer's kind: WAL, every commit synced, rows by name, transactions by hand."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


class Store:
    """The ledger file. ``write`` runs a job in the writer thread and returns when its commit is on disk."""

    def __init__(self, path: Path) -> None:
        with contextlib.closing(connect(path)) as connection:
            _take_over(connection)
            connection.executescript(_SCHEMA)
            for table in _PAGES:
                connection.executescript(_APPEND_ONLY.replace("{table}", table))
        path.chmod(0o600)
        self._reader = connect(path)
        self._reader.execute("PRAGMA query_only=ON")
        self._jobs: queue.SimpleQueue[tuple[Job, Future[Any] | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(path,), name="visa-direct-ledger")
        self._thread.start()

    async def write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``job`` in the writer's next transaction; its result, once that transaction is durable."""
        done: Future[T] = Future()
        self._jobs.put((job, done))
        return await asyncio.wrap_future(done)

    def write_soon(self, job: Job) -> None:
        """Run ``job`` before any job written later; nobody waits for it."""
        self._jobs.put((job, None))

    def close(self) -> None:
        """Write what is queued, then stop. Blocks for as long as that takes."""
        self._jobs.put(None)
        self._thread.join()
        self._reader.close()

    def _run(self, path: Path) -> None:
        with contextlib.closing(connect(path)) as connection:
            while self._run_group(connection):
                pass

    def _run_group(self, connection: sqlite3.Connection) -> bool:
        """One transaction. False once the end of the queue was seen."""
        group: list[tuple[Job, Future[Any] | None]] = []
        goes_on = True
        item = self._jobs.get()
        while True:
            if item is None:
                goes_on = False
                break
            group.append(item)
            if len(group) >= GROUP_MAX:
                break
            try:
                item = self._jobs.get_nowait()
            except queue.Empty:
                break
        if group:
            _commit(connection, group)
        return goes_on

    # Reads. They take microseconds by index, so they run where they are called.

    def entries_by_numbers(self, acquiring_bin: str, stan: str, rrn: str) -> list[Row]:
        return self._rows(
            "SELECT * FROM entries WHERE stan = ? AND rrn = ? AND acquiring_bin = ? ORDER BY id",
            (stan, rrn, acquiring_bin),
        )

    def entries_by_identifier(self, acquiring_bin: str, transaction_identifier: str) -> list[Row]:
        return self._rows(
            "SELECT * FROM entries WHERE transaction_identifier = ? AND acquiring_bin = ? ORDER BY id",
            (transaction_identifier, acquiring_bin),
        )

    def moved_between(self, from_ms: int, until_ms: int, *, limit: int, offset: int) -> list[Row]:
        """What moved money to or from cards in that time, oldest entry first. Reads the whole ledger: for reports."""
        return self._rows(_MOVED, (from_ms, until_ms, limit, offset))

    def entry_by_status(self, status_identifier: str) -> Row | None:
        rows = self._rows("SELECT * FROM entries WHERE status_identifier = ?", (status_identifier,))
        return rows[0] if rows else None

    def sender_reference_by_numbers(self, stan: str, rrn: str) -> str | None:
        rows = self._rows(
            "SELECT sender_reference FROM requests WHERE stan = ? AND rrn = ? AND sender_reference IS NOT NULL "
            "ORDER BY id DESC LIMIT 1",
            (stan, rrn),
        )
        return str(rows[0]["sender_reference"]) if rows else None

    def pending(self) -> list[Row]:
        return self._rows("SELECT * FROM pending ORDER BY due_at_ms", ())

    def fault_counts(self) -> list[Row]:
        return self._rows("SELECT * FROM fault_counts", ())

    def meta(self, name: str) -> str | None:
        rows = self._rows("SELECT value FROM meta WHERE name = ?", (name,))
        return str(rows[0]["value"]) if rows else None

    def page(self, table: Table, after: int, limit: int, sender_reference: str | None) -> list[Row]:
        """Rows with an id above ``after``, oldest first, of one payout if ``sender_reference`` is given."""
        if sender_reference is None:
            return self._rows(_PAGES[table], (after, limit))
        return self._rows(_PAGES_OF_PAYOUT[table], (after, sender_reference, limit))

    def counts(self) -> Row:
        """How many ``entries``, ``requests`` and ``pending`` there are."""
        return self._rows(_COUNTS, ())[0]

    def _rows(self, statement: str, values: tuple[object, ...]) -> list[Row]:
        return [dict(row) for row in self._reader.execute(statement, values)]


def _take_over(connection: sqlite3.Connection) -> None:
    """Give a ledger file from before accounts today's table; no row of it changes."""
    known = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'entries'").fetchone()
    if known is None or "'account'" in known["sql"]:
        return
    indexes = connection.execute("SELECT name FROM sqlite_master WHERE tbl_name = 'entries' AND type = 'index'")
    rename = ["ALTER TABLE entries RENAME TO entries_before"] + [f"DROP INDEX {row['name']}" for row in indexes]
    copy = ["INSERT INTO entries SELECT * FROM entries_before", "DROP TABLE entries_before"]
    statements = ["PRAGMA foreign_keys=OFF", "BEGIN IMMEDIATE", *rename, _SCHEMA.strip().rstrip(";"), *copy, "COMMIT"]
    connection.executescript(";\n".join([*statements, "PRAGMA foreign_keys=ON"]) + ";")


def insert_entry(connection: sqlite3.Connection, entry: Mapping[str, Any]) -> int:
    """Append one entry and return its id. ``entry`` has every name of ENTRY_COLUMNS."""
    return _insert(connection, _INSERT_ENTRY, [entry[column] for column in ENTRY_COLUMNS])


def insert_request(connection: sqlite3.Connection, request: Mapping[str, Any]) -> int:
    """Append one line of the attempt log. ``request`` has every name of REQUEST_COLUMNS."""
    return _insert(connection, _INSERT_REQUEST, [request[column] for column in REQUEST_COLUMNS])


def set_meta(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))


def as_json(row: Row) -> Row:
    """A row as the admin port shows it: times also for people, flags as booleans, the answer as JSON."""
    shown = dict(row)
    shown["at"] = iso_time(row["at_ms"])
    if "money_moved" in shown:
        shown["money_moved"] = bool(shown["money_moved"])
        shown["response"] = json.loads(shown["response"])
    return shown


def iso_time(at_ms: int) -> str:
    """Visa's transmission time, as 2018-11-09T22:52:46.000Z."""
    at = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def _insert(connection: sqlite3.Connection, statement: str, values: list[object]) -> int:
    cursor = connection.execute(statement, values)
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _commit(connection: sqlite3.Connection, group: list[tuple[Job, Future[Any] | None]]) -> None:
    """Run the jobs in one transaction; a failing job is undone alone, a failing commit fails them all."""
    outcomes: list[tuple[Future[Any] | None, Any, BaseException | None]] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job, done in group:
            outcomes.append((done, *_run_job(connection, job)))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        outcomes = [(done, None, error) for _, done in group]
    for done, result, failure in outcomes:
        _settle(done, result, failure)


def _run_job(connection: sqlite3.Connection, job: Job) -> tuple[Any, BaseException | None]:
    """The job's result, or what it raised; then its statements are undone and the others' stay."""
    connection.execute("SAVEPOINT job")
    try:
        outcome: tuple[Any, BaseException | None] = (job(connection), None)
    except Exception as error:  # noqa: BLE001 - handed to whoever waits for the job
        connection.execute("ROLLBACK TO job")
        outcome = (None, error)
    connection.execute("RELEASE job")
    return outcome


def _settle(done: Future[Any] | None, result: object, failure: BaseException | None) -> None:
    if done is None:
        if failure is not None:
            _logger.error("a ledger write that nobody waits for failed: %s", type(failure).__name__)
        return
    if not done.set_running_or_notify_cancel():
        return  # The caller is gone; what was committed stays committed.
    if failure is not None:
        done.set_exception(failure)
    else:
        done.set_result(result)
