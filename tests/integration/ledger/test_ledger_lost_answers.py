"""L4 on real PostgreSQL: whatever is cut, killed or silent, the answer is never a lie and a re-read tells the truth."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from ledger.connections import IDLE_IN_TRANSACTION_SECONDS, Timeouts
from ledger.interface import Change, CommitUnknown, Inserted, LedgerError, LedgerUnavailable
from ledger.migrate import migrate
from ledger.postgres import PostgresLedger
from processors.payout.modes import Mode
from processors.payout.row import PayoutRow, PayoutState
from sandbox.servers.postgres import PostgresServer
from tests.contract.ledger.ledger_harness import ACTOR, OWNER, committed, inserted, sample_row, step

pytestmark = pytest.mark.servers

QUICK = Timeouts(lock_seconds=0.2, statement_seconds=0.4, write_seconds=1.0)
PATIENT = Timeouts(lock_seconds=20.0, statement_seconds=30.0, write_seconds=40.0)
Write = Callable[[PostgresLedger, PayoutRow], Awaitable[object]]


@contextmanager
def hurried(ledger: PostgresLedger, timeouts: Timeouts = QUICK) -> Iterator[None]:
    """In it the ledger's own bounds are those of the fault; before and after, a commit may take what it takes."""
    usual, ledger._pool.timeouts = ledger._pool.timeouts, timeouts
    try:
        yield
    finally:
        ledger._pool.timeouts = usual


def paid(row: PayoutRow) -> Change:
    return step(row, state=PayoutState.PAID)


WRITES: dict[str, Write] = {
    "commit": lambda ledger, row: ledger.commit(paid(row)),
    "begin": lambda ledger, row: ledger.begin(paid(row), OWNER, 60),
    "insert": lambda ledger, _: ledger.insert(sample_row(2), ACTOR),
}


async def effect(database_url: str, write: str) -> bool:
    """Whether the write of `WRITES` has happened, by a connection that nobody cut."""
    async with await PostgresLedger.connect(database_url) as ledger:
        row = await ledger.read(sample_row(2 if write == "insert" else 1).payout_id)
        happened = row is not None and (write == "insert" or row.state is PayoutState.PAID)
        if row is not None:
            assert len(await ledger.history(row.payout_id)) == row.version
        return happened


class Cable:
    """A loopback relay to PostgreSQL whose answers can be withheld, or which can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.passing = asyncio.Event()
        self.passing.set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: list[asyncio.StreamWriter] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self.host, self.port)
        self.writers += [writer, server_writer]
        for source, target, answers in ((reader, server_writer, False), (server_reader, writer, True)):
            self.tasks.add(asyncio.create_task(self.relay(source, target, answers)))

    async def relay(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if answers:
                    await self.passing.wait()
                target.write(data)
                await target.drain()
        target.close()

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


@asynccontextmanager
async def cable_to(database_url: str) -> AsyncIterator[tuple[Cable, str]]:
    parts = urlsplit(database_url)
    assert parts.hostname is not None
    assert parts.port is not None
    cable = Cable(parts.hostname, parts.port)
    server = await asyncio.start_server(cable.connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    network = f"{parts.username}:{parts.password}@127.0.0.1:{port}"
    try:
        yield cable, urlunsplit(parts._replace(netloc=network))
    finally:
        server.close()
        cable.cut()
        for task in cable.tasks:
            task.cancel()
        await asyncio.gather(*cable.tasks, return_exceptions=True)
        await server.wait_closed()


async def until(question: Callable[[], Awaitable[object]]) -> None:
    """Ask again until the answer is yes; bounded."""
    async with asyncio.timeout(60):
        while not await question():  # noqa: ASYNC110 - what is asked is another process
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("write", ["commit", "insert"])
@pytest.mark.parametrize("loss", ["silence", "cut"])
async def test_l4_an_answer_that_never_comes_is_unknown_although_the_write_happened(
    ledger_url: str, write: str, loss: str
) -> None:
    async with cable_to(ledger_url) as (cable, cabled_url):
        ledger = await PostgresLedger.connect(cabled_url, pool_min=1, pool_max=1)
        row = await inserted(ledger)
        # Prepared statements are ready, so that the one message that goes out now is the write itself.
        await ledger.commit(step(row, "lost", state=row.state, version=99))
        current = await ledger.read(row.payout_id)
        assert current is not None
        cable.passing.clear()
        with hurried(ledger):
            writing = asyncio.create_task(attempt(WRITES[write](ledger, current)))
            await until(lambda: effect(ledger_url, write))
            if loss == "cut":
                cable.cut()
            assert isinstance(await writing, CommitUnknown)
        cable.passing.set()
        found = await ledger.read(sample_row(2 if write == "insert" else 1).payout_id)
        assert found is not None, "the same ledger works again, on a new connection"
        await ledger.close()


async def attempt(work: Awaitable[object]) -> object:
    try:
        return await work
    except LedgerError as error:
        return error


async def test_l4_silence_before_the_commit_was_sent_is_no_unknown(ledger_url: str) -> None:
    """`begin` sends COMMIT last: a loss before it means that nothing can have happened."""
    async with cable_to(ledger_url) as (cable, cabled_url):
        ledger = await PostgresLedger.connect(cabled_url, pool_min=1, pool_max=1)
        row = await inserted(ledger)
        cable.passing.clear()
        with hurried(ledger):
            assert isinstance(await attempt(WRITES["begin"](ledger, row)), LedgerUnavailable)
        cable.passing.set()
        assert not await effect(ledger_url, "begin")
        await ledger.close()


@asynccontextmanager
async def locked(database_url: str, row: PayoutRow) -> AsyncIterator[Any]:
    """Somebody else holds the row's lock, so that every write on it waits inside the server."""
    connection = await asyncpg.connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT FROM payouts WHERE payout_id = $1 FOR UPDATE", row.payout_id)
    try:
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


WAITING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'payouts' "
    "AND wait_event_type = 'Lock'"
)


@pytest.mark.parametrize(("write", "answer"), [("commit", CommitUnknown), ("begin", LedgerUnavailable)])
async def test_l4_a_backend_killed_in_the_middle_of_a_write(
    ledger_url: str, write: str, answer: type[LedgerError]
) -> None:
    async with await PostgresLedger.connect(ledger_url, timeouts=PATIENT) as ledger:
        row = await inserted(ledger)
        async with locked(ledger_url, row) as connection:
            writing = asyncio.create_task(attempt(WRITES[write](ledger, row)))
            await until(lambda: connection.fetchval(WAITING))
            await connection.execute(f"SELECT pg_terminate_backend(pid) FROM ({WAITING}) AS waiting")
            assert isinstance(await writing, answer)
        assert not await effect(ledger_url, write)
        assert await ledger.read(row.payout_id) == row
        assert (await committed(ledger, paid(row))).state is PayoutState.PAID, "the ledger works again"


async def test_l4_backends_killed_at_random_never_make_the_ledger_lie(ledger_url: str) -> None:
    """Confirmed writes are there, refused ones are not, unknown ones are one or the other."""
    outcomes: dict[int, object] = {}
    # Small batches, so that some are hit and others are not.
    async with await PostgresLedger.connect(ledger_url, pool_max=8, rows_max=5) as ledger:
        killer = await asyncpg.connect(ledger_url)

        async def insert(number: int) -> None:
            outcomes[number] = await attempt(ledger.insert(sample_row(number), ACTOR))

        tasks = [asyncio.create_task(insert(number)) for number in range(1, 401)]
        while len(outcomes) < len(tasks):
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'payouts' "
                "ORDER BY state = 'active' DESC, random() LIMIT 1"
            )
            # Some are to be answered between two kills.
            answered = min(len(outcomes) + 15, len(tasks))
            async with asyncio.timeout(15):
                while len(outcomes) < answered:  # noqa: ASYNC110 - what is waited for comes from the server
                    await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
        await killer.close()
    kinds = {type(outcome) for outcome in outcomes.values()}
    assert Inserted in kinds
    assert kinds & {CommitUnknown, LedgerUnavailable}, "no write was ever hit: the test has shown nothing"
    await assert_truthful(ledger_url, outcomes)


async def assert_truthful(database_url: str, outcomes: dict[int, object]) -> None:
    async with await PostgresLedger.connect(database_url) as ledger:
        for number, outcome in outcomes.items():
            row = await ledger.read(sample_row(number).payout_id)
            if isinstance(outcome, Inserted):
                assert row == outcome.row
            elif isinstance(outcome, LedgerUnavailable):
                assert row is None, "called undone, and done"
            else:
                assert isinstance(outcome, CommitUnknown), outcome
            if row is not None:
                assert row.receipt_owned
                assert len(await ledger.history(row.payout_id)) == 1


async def test_l4_p1_a_crash_of_the_server_loses_no_confirmed_write(postgres_server: PostgresServer) -> None:
    """SIGKILL for the whole server under load, then recovery from its log."""
    name = f"payouts_crash_{uuid.uuid4().hex}"
    url = postgres_server.create_database(name)
    await migrate(url)
    outcomes: dict[int, object] = {}
    try:
        # What waits for a connection is no outage yet: only the crash may be one.
        bounds = Timeouts(acquire_seconds=20, connect_seconds=20)
        # Small batches, so that the crash comes between the first and the last.
        ledger = await PostgresLedger.connect(url, pool_max=8, timeouts=bounds, rows_max=10)

        async def insert(number: int) -> None:
            outcomes[number] = await attempt(ledger.insert(sample_row(number), ACTOR))

        tasks = [asyncio.create_task(insert(number)) for number in range(1, 1_001)]

        async def enough() -> bool:
            return sum(isinstance(outcome, Inserted) for outcome in outcomes.values()) >= 200

        await until(enough)
        await asyncio.to_thread(postgres_server.kill)
        await asyncio.gather(*tasks)
    finally:
        await asyncio.to_thread(postgres_server.restart)
    answers = [type(outcome) for outcome in outcomes.values()]
    assert answers.count(Inserted) >= 200
    assert answers.count(LedgerUnavailable) > 0
    await assert_truthful(url, outcomes)
    assert isinstance(await ledger.insert(sample_row(5_000), ACTOR), Inserted), "the same pool serves again"
    await ledger.close()
    postgres_server.drop_database(name)


async def test_l4_a_cancelled_caller_does_not_cancel_the_commit(ledger_url: str) -> None:
    async with await PostgresLedger.connect(ledger_url, timeouts=PATIENT) as ledger:
        row = await inserted(ledger)
        async with locked(ledger_url, row) as connection:
            writing = asyncio.create_task(ledger.commit(paid(row)))
            await until(lambda: connection.fetchval(WAITING))
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            assert await connection.fetchval(WAITING), "the statement still runs in the server"
        await until(lambda: effect(ledger_url, "commit"))


@pytest.mark.parametrize("write", ["commit", "begin", "insert"])
async def test_l4_a_commit_with_a_warning_is_unknown(ledger_url: str, write: str) -> None:
    """A stalled standby warns like this; here a trigger does, and the write stands."""
    async with await PostgresLedger.connect(ledger_url) as ledger:
        row = await inserted(ledger)
        connection = await asyncpg.connect(ledger_url)
        await connection.execute(
            "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ "
            "BEGIN RAISE WARNING 'might not have been replicated'; RETURN NULL; END $$; "
            "CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON history DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION warn()"
        )
        await connection.close()
        answer = await attempt(WRITES[write](ledger, row))
        assert isinstance(answer, CommitUnknown)
        assert await effect(ledger_url, write)


async def test_k5_a_row_locked_for_long_is_given_up_in_bounded_time(ledger_url: str) -> None:
    # The row's lock alone is waited for so briefly: what the other rows need has all the time it needs.
    bounds = Timeouts(lock_seconds=0.2, statement_seconds=30.0, write_seconds=40.0)
    async with await PostgresLedger.connect(ledger_url, timeouts=bounds) as ledger:
        row = await inserted(ledger)
        async with locked(ledger_url, row):
            for write in ("commit", "begin"):
                answer = await asyncio.wait_for(attempt(WRITES[write](ledger, row)), 25)
                assert isinstance(answer, LedgerUnavailable)
            other = await inserted(ledger, 2)
            assert (await committed(ledger, paid(other))).version == 2, "other rows are not affected"
        assert (await committed(ledger, paid(row))).version == 2


async def test_k5_a_database_that_is_away_is_unavailable() -> None:
    with pytest.raises(LedgerUnavailable):
        await PostgresLedger.connect("postgresql://payouts:secret@127.0.0.1:1/payouts")


async def test_k5_a_pool_that_is_used_up_is_unavailable_and_bounded(ledger_url: str) -> None:
    bounds = Timeouts(acquire_seconds=0.2, lock_seconds=5.0, statement_seconds=6.0)
    async with await PostgresLedger.connect(ledger_url, pool_min=1, pool_max=1, timeouts=bounds) as ledger:
        row = await inserted(ledger)
        async with locked(ledger_url, row) as connection:
            writing = asyncio.create_task(ledger.commit(paid(row)))
            await until(lambda: connection.fetchval(WAITING))
            assert isinstance(await attempt(ledger.read(row.payout_id)), LedgerUnavailable)
            assert isinstance(await attempt(ledger.insert(sample_row(2), ACTOR)), LedgerUnavailable)
        assert (await writing) is not None


async def test_l4_our_sessions_commit_synchronously_whatever_the_database_says(ledger_url: str) -> None:
    connection = await asyncpg.connect(ledger_url)
    database = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'ALTER DATABASE "{database}" SET synchronous_commit = off')
    assert await connection.fetchval("SHOW client_min_messages") == "notice"
    await connection.close()
    async with await PostgresLedger.connect(ledger_url) as ledger:
        durability = await ledger.durability()
        assert durability.is_safe
        assert durability.synchronous_commit == "on"


async def test_l9_a_session_frozen_inside_begin_is_ended_by_the_server(ledger_url: str) -> None:
    """Its shared mode lock would keep an operator from halting."""
    async with await PostgresLedger.connect(ledger_url, pool_min=1, pool_max=1) as ledger:
        settings = await ledger._pool.read(
            lambda connection: connection.fetch(
                "SELECT name, setting FROM pg_settings WHERE name = ANY ($1::text[])",
                ["idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout"],
            )
        )
        assert {name: int(value) for name, value in settings} == {
            "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_SECONDS * 1000,
            "statement_timeout": 8_000,
            "lock_timeout": 3_000,
        }
        assert (await ledger.set_mode(Mode.NORMAL, "operator", "test", 0)).mode is Mode.NORMAL
