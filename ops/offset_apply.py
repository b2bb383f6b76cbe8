"""Carries a plan for offsets out, takes it back, and looks afterwards whether anything was lost (rules R2, K9, L10).

The order makes every half-done state a safe one. First the undo plan is on disk. Then the history says what begins, and
every payout skipped is held, while the offsets still stand: if it ends here, the workers read the records again, find
the rows and leave them held, and the same plan can be applied again. Last the offsets move, by one commit that the
broker takes only from nobody's group. Taking it back releases first: a decision that is read again counts only for a
row that is not held.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ledger.interface import Change, CommitUnknown, LedgerError
from ledger.offset_actions import OffsetActions, Payout, Step, offset_actions
from ledger.postgres import PostgresLedger
from ops.application import as_failure
from ops.asynchronous import connected_ledger
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, not_found, refused, unreachable
from ops.hold import OPERATORS_HOLD
from ops.kafka import DELIVERY_SECONDS, POLL_SECONDS, producer_config
from ops.offset_cluster import Cluster, not_committed
from ops.offset_effects import Kind, Named, Reader, effect_of, has_ended, known_of, open_reader
from ops.offset_plans import (
    FILE_BYTES_MAX,
    Effect,
    FileChanged,
    FileUnreadable,
    Move,
    OffsetPlan,
    Place,
    World,
    decode_plan,
    encode,
    refusal_of,
    undo_moves,
    undo_of,
    undo_refusal,
)
from ops.operator_actions import refuse_where_nobody_decides
from ops.output import progress
from ops.private_files import write_private
from processors.payout import state_machine
from processors.payout.events import Released
from processors.payout.step import Nothing
from schemas.topics import topic_of
from streams.clock import utc_now
from streams.completeness import INBOUND_TOPICS, missing_of
from streams.holding import holding_handlers
from streams.holes import Span
from streams.keys import Keys, load_keys
from streams.metrics import Metrics
from streams.publisher import Publisher
from streams.settings import Settings

HOLDS_AT_ONCE: Final = 50
"""The ledger takes as many in one statement; more would only wait."""
DIGEST_SHOWN: Final = 16
RELEASE_TRIES_MAX: Final = 50
OFFSETS_NOTED_MAX: Final = 200
"""Partitions that a line of the history lists; the plan's digest stands for all of them."""
SAMPLES_SHOWN: Final = 20


def hold_reason(digest: str) -> str:
    """How the reason of a plan's holds begins; what the operator said follows."""
    return f"{OPERATORS_HOLD}skipped by offset plan {digest[:DIGEST_SHOWN]}"


@dataclass(slots=True)
class Done:
    """How far it came."""

    held: int = 0
    skipped_records: int = 0
    released: int = 0
    left_held: list[str] = field(default_factory=list)
    moved: list[Move] = field(default_factory=list)
    failed: dict[Place, str] = field(default_factory=dict)

    @property
    def anything(self) -> bool:
        """Something is not as it was before."""
        return bool(self.held or self.skipped_records or self.released or self.moved)

    def counts(self) -> dict[str, int]:
        """For the history and for programs."""
        return {
            "held": self.held,
            "skipped_records": self.skipped_records,
            "released": self.released,
            "partitions_moved": len(self.moved),
            "partitions_failed": len(self.failed),
        }


class Partly(Exception):
    """Some of it was done, and the rest was not; `done` says what."""

    def __init__(self, done: Done, why: CommandFailed) -> None:
        super().__init__(why.what)
        self.done = done
        self.why = why


# Applying.


async def checked(cluster: Cluster, actions: OffsetActions, plan: OffsetPlan) -> World:
    """What is there for the plan. Raises CommandFailed when it may not be applied."""
    standing = await actions.standing(plan.digest)
    world = replace(
        await asyncio.to_thread(cluster.world, plan),
        begun=bool(standing),
        applied=Step.APPLIED in standing or Step.UNDONE in standing,
    )
    refusal = refusal_of(plan, world)
    if refusal is not None:
        raise refusal
    return world


def keys_for(cluster: Cluster, plan: OffsetPlan) -> Keys | None:
    """What takes a skipped record in; None where nothing is held. Raises KeysUnusable before anything is done."""
    holds = any(move.skipped for move in plan.moves)
    return load_keys(cluster.settings.payouts_keys_directory) if holds else None


async def refuse_after_a_restore(reader: Reader, ledger: PostgresLedger, prefix: str, moves: Sequence[Move]) -> None:
    """L11: what a restored copy misses may have been paid, and read again it would come in as new.

    Raises CommandFailed (refused), Unreadable.
    """
    numbers: dict[str, set[int]] = {}
    for move in moves:
        if move.replayed and _is_inbound(move.topic, prefix):
            numbers.setdefault(move.topic, set()).add(move.partition)
    for topic, asked in numbers.items():
        marked = await reader.records.marked(topic, sorted(asked))
        verified = await ledger.verified_offsets(topic)
        if any(verified.get(number, 0) < offset for number, offset in marked.items()):
            raise refused(
                "the ledger knows less than it once did: is it a restored copy?",
                why="requests that it has forgotten may have been paid; read again they would be paid twice",
                next_step="work through `Database restored from a copy` of the runbook first",
            )


def _is_inbound(topic: str, prefix: str) -> bool:
    try:
        return topic_of(topic, prefix).name in INBOUND_TOPICS
    except KeyError:
        return False


def write_new(path: Path, data: bytes) -> None:
    """A file that was not there, on disk before this returns. Raises CommandFailed."""
    try:
        write_private(path, data.decode())
    except FileExistsError:
        raise CommandFailed(
            ExitCode.USAGE, "a file of that name is there already", next_step="name another, or move it away"
        ) from None
    except OSError as error:
        raise unreachable("the file cannot be written", why=str(error.strerror)) from None


async def apply_plan(cluster: Cluster, plan: OffsetPlan, *, operator: str, reason: str, undo_file: Path) -> Done:
    """Hold what is skipped, then move. Raises CommandFailed (nothing was changed), Partly."""
    settings, done = cluster.settings, Done()
    keys = keys_for(cluster, plan)
    async with offset_actions(settings.database_url.get_secret_value()) as actions, open_reader(settings) as reader:
        await locked(actions)
        await checked(cluster, actions, plan)
        await _recounted(reader, actions, plan)
        await _known_here(cluster, reader, plan)
        _write_undo(undo_file, plan)
        said = {"plan": plan.digest, "reason": reason}
        await actions.note(Step.BEGUN, operator, said | _noted(plan))
        async with _partly(done, actions, operator, said):
            if keys is not None:
                await _hold_skipped(
                    settings, reader, keys, plan, operator, f"{hold_reason(plan.digest)}: {reason}", done
                )
            await checked(cluster, actions, plan)  # who began meanwhile is seen, and the broker has the last word
            await _move(cluster, plan.moves, plan.topic_ids, done)
            await actions.note(Step.APPLIED, operator, said | done.counts())
    return done


def _write_undo(path: Path, plan: OffsetPlan) -> None:
    """One that is there already is this plan's, from a first try that was cut off, or refused."""
    if not path.exists():
        write_new(path, encode(undo_of(plan, utc_now())))
    elif not _is_undo_of(path, plan):
        raise CommandFailed(
            ExitCode.USAGE,
            "the file for the undo plan is there already, and is not this plan's",
            why="without its undo plan nothing is moved",
            next_step="name another with --undo-plan, or move it away",
        )


def _is_undo_of(path: Path, plan: OffsetPlan) -> bool:
    try:
        with path.open("rb") as file:
            found = decode_plan(file.read(FILE_BYTES_MAX + 1))
    except (OSError, FileUnreadable, FileChanged):
        return False
    return found == undo_of(plan, found.made_at)


async def _known_here(cluster: Cluster, reader: Reader, plan: OffsetPlan) -> None:
    async with connected_ledger(cluster.settings) as ledger:
        await refuse_after_a_restore(reader, ledger, cluster.settings.payouts_topic_prefix, plan.moves)


async def locked(actions: OffsetActions) -> None:
    """Nobody else moves offsets from here on. Raises CommandFailed (refused)."""
    if not await actions.lock():
        raise refused(
            "somebody else is moving offsets, or has records driven in, at this moment",
            why="two plans at once would each count what the other changes",
            next_step="wait until he is done; then look again, and make a new plan",
        )


async def _recounted(reader: Reader, actions: OffsetActions, plan: OffsetPlan) -> None:
    """R2: what is held is what was typed. Records do not change, but retention takes them away."""
    if not any(move.skipped for move in plan.moves):
        return
    found = await effect_of(reader, actions, plan.moves, lambda move: move.skipped, "records counted again")
    if (found.payouts, found.records) != (plan.skip.payouts, plan.skip.records):
        raise refused(
            f"the plan skips {plan.skip.payouts} payouts in {plan.skip.records} records; found now: {found.payouts} in "
            f"{found.records}",
            why="records were removed since the plan",
            next_step="make a new plan and read it",
        )


def _noted(plan: OffsetPlan) -> dict[str, Any]:
    """What the history keeps of a plan: short enough for a line, whatever the plan's length."""
    return {
        "group": plan.group,
        "cluster_id": plan.cluster_id,
        "target": plan.target,
        "kind": plan.kind,
        "undoes": plan.undoes,
        "skip": plan.skip.model_dump(mode="json"),
        "replay": plan.replay.model_dump(mode="json"),
        "partitions": len(plan.moves),
        "offsets": {f"{m.topic}-{m.partition}": [m.old, m.new] for m in plan.moves[:OFFSETS_NOTED_MAX] if m.delta},
    }


@asynccontextmanager
async def _partly(
    done: Done, actions: OffsetActions, operator: str, said: Mapping[str, Any], step: Step = Step.PARTLY
) -> AsyncIterator[None]:
    """From here on a failure leaves something behind, and the history and the operator are told what."""
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever it is, the operator is told what is done
        why = as_failure(error) if isinstance(error, Exception) else CommandFailed(ExitCode.INTERRUPTED, "interrupted")
        if not done.anything:
            raise why from None
        with suppress(LedgerError, OSError):
            await actions.note(step, operator, {**said, **done.counts(), "why": why.what})
        raise Partly(done, why) from None


async def _hold_skipped(
    settings: Settings, reader: Reader, keys: Keys, plan: OffsetPlan, operator: str, reason: str, done: Done
) -> None:
    metrics = Metrics()
    async with connected_ledger(settings) as ledger:
        publisher = Publisher(
            Confirmed(settings),
            reader.codec,
            prefix=settings.payouts_topic_prefix,
            unconfirmed_seconds=DELIVERY_SECONDS,
            on_unconfirmed=lambda _topic: None,
            metrics=metrics,
        )
        skipped = holding_handlers(
            ledger,
            reader.codec,
            keys,
            publisher,
            reason=reason,
            operator=operator,
            schedule=settings.schedule,
            clock=utc_now,
            metrics=metrics,
            prefix=settings.payouts_topic_prefix,
        )
        total = sum(len(move.skipped) for move in plan.moves)
        try:
            with progress("records taken in and held", total) as step:
                for move in plan.moves:
                    async for named in reader.batches(move.place, move.skipped, step):
                        for start in range(0, len(named), HOLDS_AT_ONCE):
                            part = named[start : start + HOLDS_AT_ONCE]
                            await _all(skipped(one.record) for one in part)
        finally:
            done.held, done.skipped_records = skipped.counts.held, skipped.counts.records


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """All of them end, whatever one says; then the first failure is raised."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def _move(cluster: Cluster, moves: Sequence[Move], topic_ids: Mapping[str, str], done: Done) -> None:
    """Only what is to move; what stays may never have been committed, and shall not be now."""
    to_move = [move for move in moves if move.old != move.new]
    if not to_move:
        return
    try:
        done.failed = await asyncio.to_thread(cluster.commit, to_move, topic_ids)
    except KafkaException as error:
        raise not_committed(error, cluster.group) from None
    done.moved = [move for move in to_move if move.place not in done.failed]
    if done.failed:
        place, why = next(iter(done.failed.items()))
        raise unreachable(
            f"{len(done.failed)} of {len(to_move)} partitions were not moved, the first is {place[0]}-{place[1]}",
            why=why,
            next_step="apply the same plan again, or take it back with its undo plan",
        )


class Confirmed:
    """The publisher's way to Kafka from a command: dead letters and refusals of skipped records, which are few."""

    def __init__(self, settings: Settings) -> None:
        self._producer = Producer(producer_config(settings))

    async def __call__(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> Awaitable[Any]:
        """Hand it over; the result ends when the brokers have it. Raises KafkaException."""
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[None] = loop.create_future()

        def tell(error: KafkaError | None) -> None:
            if confirmed.done():
                return
            if error is None:
                confirmed.set_result(None)
            else:
                confirmed.set_exception(KafkaException(error))

        def delivered(error: KafkaError | None, _message: Message) -> None:
            loop.call_soon_threadsafe(tell, error)

        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=delivered, headers=list(headers))
                break
            except BufferError:
                await asyncio.to_thread(self._producer.poll, POLL_SECONDS)
        await asyncio.to_thread(self._producer.flush, DELIVERY_SECONDS)
        return confirmed


# Taking back.


@dataclass(frozen=True, slots=True)
class Back:
    """What taking a plan back would do now."""

    plan: OffsetPlan
    """From where the group stands now."""
    undoes: str
    held: Mapping[str, tuple[int, int]]
    """Payouts and minor units, for each currency, that it holds and that would be released."""


async def look_back(cluster: Cluster, undo: OffsetPlan) -> Back:
    """Raises CommandFailed when it may not be taken back."""
    settings = cluster.settings
    if undo.kind != "undo" or undo.undoes is None:
        raise CommandFailed(
            ExitCode.USAGE, "this is no undo plan", next_step="`payouts offsets apply` writes one before it acts"
        )
    async with offset_actions(settings.database_url.get_secret_value()) as actions, open_reader(settings) as reader:
        standing = await actions.standing(undo.undoes)
        if not standing:
            raise refused("the plan was never applied here", why="there is nothing to take back")
        world = await asyncio.to_thread(cluster.world, undo)
        refusal = undo_refusal(undo, world)
        if refusal is not None:
            raise refusal
        moves = undo_moves(undo, world.committed, world.bounds)
        forward = await effect_of(reader, actions, moves, lambda move: move.skipped, "records passed")
        back = await effect_of(reader, actions, moves, lambda move: move.replayed, "records read again")
        if forward.records:
            await _refuse_unknown(reader, actions, settings, moves)
        held = await actions.held_money(hold_reason(undo.undoes))
        left = bool(held) or any(move.delta for move in moves)
        if Step.UNDONE in standing and not left:
            raise refused("the plan was taken back already", why="nothing of it is left")
        plan = undo.model_copy(update={"moves": moves, "skip": forward, "replay": back, "made_at": world.now})
        return Back(plan, undo.undoes, held)


async def _refuse_unknown(reader: Reader, actions: OffsetActions, settings: Settings, moves: Sequence[Move]) -> None:
    """Forward again is no skip only where the ledger knows of everything that is passed."""
    async with connected_ledger(settings) as ledger:
        accounts = await account_for(
            reader, actions, ledger, settings, [(move.place, move.skipped) for move in moves], reason=None
        )
    if accounts.missing:
        raise refused(
            f"going forward again would pass {accounts.missing} record(s) that the ledger knows nothing of",
            why="they were read by nobody since; to pass them is to lose them",
            next_step="let the workers read them; or make a plan that skips them, which holds them",
        )


async def take_back(cluster: Cluster, back: Back, *, operator: str, reason: str) -> Done:
    """Release what the plan holds, then move back. Raises CommandFailed (nothing was changed), Partly."""
    settings, done = cluster.settings, Done()
    async with offset_actions(settings.database_url.get_secret_value()) as actions, open_reader(settings) as reader:
        await locked(actions)
        world = await asyncio.to_thread(cluster.world, back.plan)
        refusal = refusal_of(back.plan, world)
        if refusal is not None:
            raise refusal
        said = {"plan": back.undoes, "reason": reason, "offsets": _noted(back.plan)["offsets"]}
        async with connected_ledger(settings) as ledger:
            if back.held:
                refuse_where_nobody_decides((await ledger.mode()).mode, "releasing what the plan holds")
            await refuse_after_a_restore(reader, ledger, settings.payouts_topic_prefix, back.plan.moves)
            await actions.note(Step.UNDO_BEGUN, operator, said)
            async with _partly(done, actions, operator, said, Step.PARTLY_UNDONE):
                await _release(settings, actions, ledger, hold_reason(back.undoes), operator, reason, done)
                await _move(cluster, [m for m in back.plan.moves if m.delta], back.plan.topic_ids, done)
                await actions.note(Step.UNDONE, operator, said | done.counts())
    return done


async def _release(
    settings: Settings,
    actions: OffsetActions,
    ledger: PostgresLedger,
    why_held: str,
    operator: str,
    reason: str,
    done: Done,
) -> None:
    after = ""
    while page := await actions.held_for(why_held, after):
        for start in range(0, len(page), HOLDS_AT_ONCE):
            part = page[start : start + HOLDS_AT_ONCE]
            work = [_release_one(settings, ledger, name, why_held, operator, reason, done) for name in part]
            await _all(work)
        after = page[-1]


async def _release_one(
    settings: Settings, ledger: PostgresLedger, payout_id: str, why_held: str, operator: str, reason: str, done: Done
) -> None:
    for _ in range(RELEASE_TRIES_MAX):
        row = await ledger.read(payout_id)
        if row is None or not row.held or not (row.hold_reason or "").startswith(why_held):
            return
        step = state_machine.apply(row, Released(operator, reason), utc_now(), settings.schedule)
        if isinstance(step, Nothing):
            done.left_held.append(payout_id)
            return
        try:
            committed = await ledger.commit(Change(row, step.row, step.transition, operator, step.detail))
        except CommitUnknown:
            continue
        if committed is not None:
            done.released += 1
            return
    done.left_held.append(payout_id)


# Looking afterwards.


@dataclass(slots=True)
class Accounts:
    """What became of the records of some ranges."""

    records: int = 0
    held: int = 0
    """Records whose payout is held."""
    seen: int = 0
    """Records whose payout has ended, or that are repeats, refusals, dead letters, or words that were handled."""
    released: int = 0
    """Records whose payout was held by the plan, and goes on since somebody released it."""
    missing: int = 0
    """Records of which the ledger knows nothing, and those whose payout goes on although it was skipped."""
    samples: list[str] = field(default_factory=list)
    """Places of what is missing."""


async def account_for(
    reader: Reader,
    actions: OffsetActions,
    ledger: PostgresLedger,
    settings: Settings,
    spans: Sequence[tuple[Place, range]],
    *,
    reason: str | None,
) -> Accounts:
    """Look every record of the spans up (rule K9). `reason`: they were skipped, and must be held for it or have ended.

    Raises Unreadable, LedgerUnavailable, RegistryUnavailable.
    """
    accounts = Accounts()
    with progress("records looked up", sum(len(span) for _, span in spans)) as step:
        for place, span in spans:
            async for named in reader.batches(place, span, step):
                await _account(reader, actions, ledger, settings, named, accounts, reason)
    return accounts


async def _account(
    reader: Reader,
    actions: OffsetActions,
    ledger: PostgresLedger,
    settings: Settings,
    named: Sequence[Named],
    accounts: Accounts,
    reason: str | None,
) -> None:
    known = await known_of(actions, named)
    missing = await _unaccounted(reader, ledger, settings, named)
    going_on = sorted(name for name, payout in known.items() if not payout.held and not has_ended(payout))
    were_held = await actions.were_held(going_on, reason) if reason and going_on else frozenset()
    for one in named:
        accounts.records += 1
        payout = known.get(one.payout_id)
        match _fate(one, payout, is_missing=one.record.offset in missing, reason=reason):
            case "missing" if one.payout_id in were_held and one.record.offset not in missing:
                accounts.released += 1
            case "missing":
                accounts.missing += 1
                if len(accounts.samples) < SAMPLES_SHOWN:
                    accounts.samples.append(one.record.source)
            case "held":
                accounts.held += 1
            case _:
                accounts.seen += 1


async def _unaccounted(
    reader: Reader, ledger: PostgresLedger, settings: Settings, named: Sequence[Named]
) -> frozenset[int]:
    """Offsets of inbound records that K9 would call lost; each batch is of one partition."""
    if not named or not _is_inbound(named[0].record.topic, settings.payouts_topic_prefix):
        return frozenset()
    slot = (named[0].record.topic, named[0].record.partition)
    span = Span(named[-1].record.offset + 1, [one.message for one in named])
    found = await missing_of(ledger, reader.codec, slot, span, settings.payouts_topic_prefix)
    return frozenset(position.offset for position in found)


def _fate(one: Named, payout: Payout | None, *, is_missing: bool, reason: str | None) -> str:
    if is_missing:
        return "missing"
    if one.kind is not Kind.PAYOUT:
        return "seen"  # an inbound one that is not missing has its dead letter; others are nobody's payout
    if payout is None:
        return "missing" if one.is_request else "seen"
    if payout.held:
        return "held"
    return "seen" if reason is None or has_ended(payout) else "missing"


async def verify_plan(cluster: Cluster, plan: OffsetPlan) -> tuple[list[dict[str, Any]], Accounts, Accounts]:
    """Rows of partitions, and what became of the records skipped and of those read again. Raises CommandFailed."""
    settings = cluster.settings
    if plan.kind == "undo":
        raise CommandFailed(ExitCode.USAGE, "this is an undo plan", next_step="verify the plan that it takes back")
    async with offset_actions(settings.database_url.get_secret_value()) as actions, open_reader(settings) as reader:
        world = await asyncio.to_thread(cluster.world, plan)
        standing = await actions.standing(plan.digest)
        if not standing:
            raise not_found("the plan was never applied here", next_step="`payouts offsets apply`")
        if (plan.cluster_id, plan.group) != (world.cluster_id, world.group) or world.topic_ids != plan.topic_ids:
            raise refused("the plan is for another cluster, group or topic", why="there is nothing here to compare")
        rows = [_row(move, world.committed.get(move.place)) for move in plan.moves]
        async with connected_ledger(settings) as ledger:
            reason = hold_reason(plan.digest)
            skipped = [(m.place, _kept(m.skipped, world, m)) for m in plan.moves]
            passed = [(m.place, _kept(_read_again(m, world), world, m)) for m in plan.moves]
            return (
                rows,
                await account_for(reader, actions, ledger, settings, skipped, reason=reason),
                await account_for(reader, actions, ledger, settings, passed, reason=None),
            )


def _kept(span: range, world: World, move: Move) -> range:
    held = world.bounds[move.place]
    return range(max(span.start, held.earliest), max(span.start, held.earliest, min(span.stop, held.latest)))


def _read_again(move: Move, world: World) -> range:
    """Of what was to be read again, what the workers have passed since."""
    found = world.committed.get(move.place, move.new)
    return range(move.replayed.start, max(move.replayed.start, min(move.replayed.stop, found)))


def _row(move: Move, committed: int | None) -> dict[str, Any]:
    stands = move.earliest if committed is None else committed
    fate = "as planned" if stands == move.new else "went on" if stands > move.new else "not as planned"
    return {
        "topic": move.topic,
        "partition": move.partition,
        "planned": move.new,
        "committed": committed,
        "fate": fate,
    }


# Plans.


async def effects(settings: Settings, moves: Sequence[Move]) -> tuple[Effect, Effect]:
    """What these moves skip, and what they read again."""
    async with offset_actions(settings.database_url.get_secret_value()) as actions, open_reader(settings) as reader:
        return (
            await effect_of(reader, actions, moves, lambda move: move.skipped, "records skipped"),
            await effect_of(reader, actions, moves, lambda move: move.replayed, "records read again"),
        )


async def dry_check(cluster: Cluster, plan: OffsetPlan) -> None:
    """Every check of `apply_plan`, and nothing else. Raises CommandFailed."""
    settings = cluster.settings
    keys_for(cluster, plan)
    async with offset_actions(settings.database_url.get_secret_value()) as actions, open_reader(settings) as reader:
        await checked(cluster, actions, plan)
        await _known_here(cluster, reader, plan)
