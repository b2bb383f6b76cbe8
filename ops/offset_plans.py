"""What moves a group's offsets: targets, plans, backups, and when a plan is refused (rule R2). Pure: no I/O, no clock.

    target = Target(Scenario.TO_DATETIME, at=parse_datetime("2026-11-22T17:00:00.000"))
    new = resolve(target, place, Bounds(0, 120), committed=100, found_at=80, clamp=False)
    data = encode(OffsetPlan(...))        a file that says what it says byte by byte: `decode_plan` refuses any other
    refusal_of(plan, World(...))          why it may not be applied now, or None

Flag names and meanings are those of `kafka-consumer-groups.sh --reset-offsets`. An offset is the next one to be read. A
move forward skips records, a move backward reads records again; nothing committed counts as the first record there is,
because that is where the workers begin.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, refused

Place = tuple[str, int]
"""A partition: the topic's name on the cluster, and its number."""

OFFSET_MAX: Final = 2**63 - 1
FILE_BYTES_MAX: Final = 8_388_608
"""Of a plan or backup: ten thousand partitions are two megabytes."""
MAX_AGE_SECONDS: Final = 3_600
"""Of a plan, unless it says otherwise: what was read an hour ago is not what somebody agrees to now."""
UNDO_AGE_SECONDS: Final = 7 * 86_400
"""Of an undo plan: it is made anew from where the group stands, so only the topics' retention limits it."""
CLOCK_SKEW_SECONDS: Final = 300
"""Between the machine that made a plan and the one that applies it."""
INACTIVE: Final = frozenset({"EMPTY", "DEAD"})
"""States of a group whose offsets may be moved; every other, an unknown one too, has members."""
CANNOT_BE_SEEN: Final = (
    "Readers that use assign() are no members: nobody can see them here. Make sure yourself that none commits for this "
    "group."
)

_DATETIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?(Z|[+-]\d\d(?::?\d\d)?)?")
_DURATION: Final = re.compile(
    r"(-?)P(?:(\d{1,6})D)?(?:T(?=\d)(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9}(?:\.\d{1,6})?)S)?)?"
)
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


class Scenario(StrEnum):
    """Where to; the words are Kafka's flags."""

    TO_EARLIEST = "to-earliest"
    TO_LATEST = "to-latest"
    TO_CURRENT = "to-current"
    TO_OFFSET = "to-offset"
    SHIFT_BY = "shift-by"
    TO_DATETIME = "to-datetime"
    BY_DURATION = "by-duration"
    FROM_FILE = "from-file"
    RESTORE = "restore"
    UNDO = "undo"


class TargetUnusable(ValueError):
    """What was typed is no target; the text says why without quoting it."""


class BeyondTheLog(Exception):
    """The offset asked for is outside of what the partition holds."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a partition holds: the first offset that is kept, and the one behind the last (for a committed reader)."""

    earliest: int
    latest: int

    def nearest(self, offset: int) -> int:
        """The offset, or the end that it lies beyond."""
        return min(max(offset, self.earliest), self.latest)


@dataclass(frozen=True, slots=True)
class Target:
    """A scenario with its value."""

    scenario: Scenario
    number: int = 0
    at: datetime | None = None
    offsets: Mapping[Place, int] | None = None

    @property
    def text(self) -> str:
        """As it is typed, for the plan."""
        value = {Scenario.TO_OFFSET: str(self.number), Scenario.SHIFT_BY: f"{self.number:+d}"}.get(self.scenario, "")
        if self.at is not None:
            value = self.at.astimezone(UTC).isoformat(timespec="milliseconds")
        return f"--{self.scenario.value} {value}".strip()


@dataclass(frozen=True, slots=True)
class Aim:
    """The new offset of one partition."""

    offset: int
    clamped: bool = False
    note: str | None = None
    """For people: what is not as it was asked for."""


def resolve(
    target: Target, place: Place, bounds: Bounds, *, committed: int | None, found_at: int | None, clamp: bool
) -> Aim:
    """Where the partition goes. `found_at`: the first record as young as `target.at`, None where there is none.

    Raises BeyondTheLog (an offset given as a number, without `clamp`), TargetUnusable.
    """
    where = f"{place[0]}-{place[1]}"
    match target.scenario:
        case Scenario.TO_EARLIEST:
            return Aim(bounds.earliest)
        case Scenario.TO_LATEST:
            return Aim(bounds.latest)
        case Scenario.TO_CURRENT if committed is None:
            return Aim(bounds.latest, note=f"{where}: nothing is committed there; to its end, as Kafka's own tool does")
        case Scenario.TO_CURRENT:
            return _nearest(committed or 0, bounds, where)
        case Scenario.TO_DATETIME | Scenario.BY_DURATION if found_at is None:
            return Aim(bounds.latest, note=f"{where}: no record is that young; to its end")
        case Scenario.TO_DATETIME | Scenario.BY_DURATION:
            return _nearest(found_at or 0, bounds, where)
        case Scenario.SHIFT_BY if committed is None:
            raise TargetUnusable(f"{where}: nothing is committed there, so nothing can be shifted")
        case Scenario.SHIFT_BY:
            return _nearest((committed or 0) + target.number, bounds, where)
        case _:
            wanted = target.number if target.offsets is None else target.offsets[place]
            if not clamp and bounds.nearest(wanted) != wanted:
                raise BeyondTheLog(f"{where} holds {bounds.earliest} to {bounds.latest}, not {wanted}")
            return _nearest(wanted, bounds, where)


def _nearest(wanted: int, bounds: Bounds, where: str) -> Aim:
    offset = bounds.nearest(wanted)
    if offset == wanted:
        return Aim(offset)
    held = f"{bounds.earliest} to {bounds.latest}"
    return Aim(offset, clamped=True, note=f"{where}: {wanted} is beyond the log ({held}); {offset} is the nearest")


# What is typed.


def parse_topics(texts: Iterable[str]) -> dict[str, frozenset[int] | None]:
    """`t`, `t:0,1`: topics and their partitions, None for all of them. Raises TargetUnusable."""
    found: dict[str, frozenset[int] | None] = {}
    for text in texts:
        name, colon, numbers = text.partition(":")
        if not _TOPIC.fullmatch(name):
            raise TargetUnusable("a topic has 1 to 249 characters of A-Z, a-z, 0-9, dot, underscore and hyphen")
        if name in found:
            raise TargetUnusable("a topic is named twice; write its partitions behind one colon, as in t:0,1")
        if not colon:
            found[name] = None
            continue
        parts = numbers.split(",")
        if not all(re.fullmatch(r"\d{1,6}", part) for part in parts):
            raise TargetUnusable("partitions behind a topic are numbers, as in t:0,1")
        found[name] = frozenset(map(int, parts))
    return found


def parse_datetime(text: str) -> datetime:
    """`2026-11-22T17:00:00.000`, with Z or ±hh:mm; without a zone it is UTC, as for Kafka. Raises TargetUnusable."""
    found = _DATETIME.fullmatch(text)
    no_time = TargetUnusable("a time is YYYY-MM-DDTHH:mm:ss.sss, then Z, ±hh:mm or nothing (which is UTC)")
    if found is None:
        raise no_time
    try:
        zone = (found[3] or "Z").replace(":", "")
        offset = "" if zone == "Z" else zone.ljust(5, "0")
        at = datetime.fromisoformat(f"{found[1]}{found[2] or ''}")
        return at.replace(tzinfo=UTC) - _zone(offset)
    except (ValueError, OverflowError):
        raise no_time from None


def _zone(offset: str) -> timedelta:
    if not offset:
        return timedelta()
    hours, minutes = int(offset[1:3]), int(offset[3:5])
    if hours > 18 or minutes > 59:
        raise ValueError("no zone")
    span = timedelta(hours=hours, minutes=minutes)
    return -span if offset[0] == "-" else span


def parse_duration(text: str) -> timedelta:
    """`P1DT2H30M5.5S`: how far back from now. Raises TargetUnusable; a negative one leads into the future."""
    found = _DURATION.fullmatch(text)
    if found is None or not any(part is not None for part in found.groups()[1:]):
        raise TargetUnusable("a duration is PnDTnHnMnS, for example PT30M or P1DT12H")
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups()[1:])
    span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return -span if found[1] else span


def in_the_past(at: datetime, now: datetime) -> datetime:
    """The time, which has been. Raises CommandFailed (refused)."""
    if at > now:
        raise refused(
            "the time asked for is in the future",
            why="no record is that young, so that every record would be skipped, those of the next minutes too",
            next_step="give a time that has been; --to-latest goes to the end",
        )
    return at


def parse_csv(text: str, group: str) -> dict[Place, int]:
    """Lines `topic,partition,offset` or `group,topic,partition,offset`, as Kafka's --export writes them.

    Raises TargetUnusable with the line's number.
    """
    found: dict[Place, int] = {}
    rows = csv.reader(text.removeprefix("\ufeff").splitlines(), strict=True)
    try:
        for cells in rows:
            if cells:
                _add_line(found, [cell.strip() for cell in cells], group)
    except (csv.Error, TargetUnusable) as error:
        why = str(error) if isinstance(error, TargetUnusable) else "it is no CSV"
        raise TargetUnusable(f"line {rows.line_num}: {why}") from None
    if not found:
        raise TargetUnusable("the file names no offset")
    return found


def _add_line(found: dict[Place, int], cells: Sequence[str], group: str) -> None:
    if len(cells) == 4 and cells[0] != group:
        raise TargetUnusable("it is for another group")
    if len(cells) not in (3, 4):
        raise TargetUnusable("it must be topic,partition,offset or group,topic,partition,offset")
    topic, partition, offset = cells[-3:]
    if not (_TOPIC.fullmatch(topic) and re.fullmatch(r"[0-9]{1,6}", partition)):
        raise TargetUnusable("it names no topic and partition")
    if not re.fullmatch(r"[0-9]{1,19}", offset) or int(offset) > OFFSET_MAX:
        raise TargetUnusable("its offset is no number from 0 on")
    if (topic, int(partition)) in found:
        raise TargetUnusable("it names a partition that was named before")
    found[topic, int(partition)] = int(offset)


# Files.

_Offset = Annotated[int, Field(ge=0, le=OFFSET_MAX)]
_Count = Annotated[int, Field(ge=0, le=OFFSET_MAX)]
_Name = Annotated[str, Field(min_length=1, max_length=249, pattern=r"^[A-Za-z0-9._-]+$")]
_Identifier = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+/=-]+$")]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Currency = Annotated[str, Field(pattern=r"^[A-Z?]{3}$")]


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Move(_Content):
    """One partition of a plan."""

    topic: _Name
    partition: Annotated[int, Field(ge=0, le=999_999)]
    earliest: _Offset
    latest: _Offset
    old: _Offset | None
    """What is committed; None where nothing is."""
    new: _Offset
    clamped: bool

    @property
    def place(self) -> Place:
        """Topic and number."""
        return self.topic, self.partition

    @property
    def stands(self) -> int:
        """Where the workers would go on without the plan."""
        return self.earliest if self.old is None else self.old

    @property
    def delta(self) -> int:
        """Offsets forward (skipped) or backward (read again)."""
        return self.new - self.stands

    @property
    def skipped(self) -> range:
        """Offsets that nobody would read, as far as the partition still holds them."""
        return range(max(self.stands, self.earliest), max(self.new, self.stands, self.earliest))

    @property
    def replayed(self) -> range:
        """Offsets that are read again."""
        return range(self.new, max(self.new, min(self.stands, self.latest)))


class Effect(_Content):
    """What is skipped, or read again: records, and the payouts that they name, each counted once."""

    records: _Count = 0
    payouts: _Count = 0
    ended: _Count = 0
    """Of the payouts: those that have an outcome and whose compensation, if any, is over."""
    open: _Count = 0
    unseen: _Count = 0
    """Of the payouts: those that the ledger does not know yet."""
    undecodable: _Count = 0
    """Records that no worker can read: each is a dead letter."""
    foreign: _Count = 0
    """Records that can be read and are no payout's here: dead letters, too."""
    money: Mapping[_Currency, Annotated[int, Field(ge=-(10**30), le=10**30)]] = {}
    """Minor units for each currency, of the payouts."""


class OffsetPlan(_Content):
    """What `plan` found and `apply` may do."""

    format: Literal["payouts-offset-plan/1"] = "payouts-offset-plan/1"
    kind: Literal["reset", "undo", "restore"] = "reset"
    cluster_id: _Identifier
    group: _Name
    made_at: AwareDatetime
    max_age_seconds: Annotated[int, Field(ge=1, le=UNDO_AGE_SECONDS)]
    target: Annotated[str, Field(max_length=200, pattern=r"^[ -~]*$")]
    topic_ids: Mapping[_Name, _Identifier]
    moves: Annotated[tuple[Move, ...], Field(min_length=1, max_length=20_000)]
    skip: Effect
    replay: Effect
    undoes: _Digest | None = None
    """The plan that this one takes back."""

    @property
    def digest(self) -> str:
        """SHA-256 over everything that the plan says."""
        return _digest(self)


class CommittedPlace(_Content):
    """One partition of a backup."""

    topic: _Name
    partition: Annotated[int, Field(ge=0, le=999_999)]
    offset: _Offset


class OffsetBackup(_Content):
    """What a group had committed."""

    format: Literal["payouts-offset-backup/1"] = "payouts-offset-backup/1"
    cluster_id: _Identifier
    group: _Name
    made_at: AwareDatetime
    topic_ids: Mapping[_Name, _Identifier]
    offsets: Annotated[tuple[CommittedPlace, ...], Field(min_length=1, max_length=20_000)]


class FileUnreadable(ValueError):
    """It is no such file; the text quotes nothing of it."""


class FileChanged(ValueError):
    """It was such a file, and somebody changed it."""


Content = TypeVar("Content", OffsetPlan, OffsetBackup)
_FIELDS: Final = frozenset(
    {"digest", "content"} | {name for kind in (OffsetPlan, OffsetBackup, Move, Effect, CommittedPlace)
     for name in kind.model_fields}
)  # fmt: skip


def encode(content: OffsetPlan | OffsetBackup) -> bytes:
    """The file: readable, one form only, with the digest of its content."""
    document = {"content": content.model_dump(mode="json"), "digest": _digest(content)}
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True).encode() + b"\n"


def decode_plan(data: bytes) -> OffsetPlan:
    """Read a plan. Raises FileUnreadable, FileChanged."""
    plan = _decode(data, OffsetPlan, "offset plan")
    places = [move.place for move in plan.moves]
    if len(set(places)) < len(places) or {topic for topic, _ in places} != set(plan.topic_ids):
        raise FileUnreadable("this is no offset plan: a partition is named twice, or a topic has no id")
    if any(move.earliest > move.latest for move in plan.moves):
        raise FileUnreadable("this is no offset plan: a partition ends before it begins")
    return plan


def decode_backup(data: bytes) -> OffsetBackup:
    """Read a backup. Raises FileUnreadable, FileChanged."""
    return _decode(data, OffsetBackup, "backup of offsets")


def _decode(data: bytes, kind: type[Content], what: str) -> Content:
    if len(data) > FILE_BYTES_MAX:
        raise FileUnreadable(f"this is no {what}: it is longer than {FILE_BYTES_MAX} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise FileUnreadable(f"this is no {what}: it is no JSON") from None
    if not isinstance(document, dict) or set(document) != {"content", "digest"}:
        raise FileUnreadable(f"this is no {what}: it must have a content and its digest, and nothing else")
    try:
        content = kind.model_validate_json(json.dumps(document["content"]))
    except ValidationError as error:
        raise FileUnreadable(f"this is no {what}: {_first_problem(error)}") from None
    except (ValueError, RecursionError):
        raise FileUnreadable(f"this is no {what}") from None
    # Byte by byte: what reads the same may have been typed by somebody.
    if document["digest"] != _digest(content) or encode(content) != data:
        raise FileChanged(f"this {what} is not as it was written: its digest is of other content")
    return content


def _first_problem(error: ValidationError) -> str:
    """Where it is wrong; never what stands there."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _FIELDS)
    return f"{where or 'its content'} is missing or wrong"


def _digest(content: BaseModel) -> str:
    canonical = json.dumps(content.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


# When a plan may not be applied.


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is there when a plan is to be applied."""

    cluster_id: str
    group: str
    state: str
    members: Sequence[str]
    topic_ids: Mapping[str, str]
    committed: Mapping[Place, int]
    bounds: Mapping[Place, Bounds]
    now: datetime
    begun: bool = False
    """This very plan was begun before, and what it did may be half done."""
    applied: bool = False


def refusal_of(plan: OffsetPlan, world: World) -> CommandFailed | None:
    """Why the plan may not be applied now; None if it may."""
    return _of_another(plan, world) or _too_old(plan, world) or active(world) or _moved(plan, world)


def _of_another(plan: OffsetPlan, world: World) -> CommandFailed | None:
    again = "make a plan here: `payouts offsets plan`"
    if plan.cluster_id != world.cluster_id:
        return refused("the plan is for another cluster", why="offsets mean nothing elsewhere", next_step=again)
    if plan.group != world.group:
        return refused("the plan is for another group", why=f"this is about {world.group}", next_step=again)
    anew = sorted(name for name, known in plan.topic_ids.items() if world.topic_ids.get(name) != known)
    if anew:
        return refused(
            f"{', '.join(anew)}: made anew, or gone, since the plan",
            why="its offsets name other records now",
            next_step=again,
        )
    return None


def _too_old(plan: OffsetPlan, world: World) -> CommandFailed | None:
    age = (world.now - plan.made_at).total_seconds()
    if age > plan.max_age_seconds:
        return refused(
            f"the plan is {age:.0f} s old, and may be {plan.max_age_seconds} s old at most",
            why="what it says of payouts and money was true then",
            next_step="make a new one and read it",
        )
    if age < -CLOCK_SKEW_SECONDS:
        return refused("the plan was made in the future", why="a clock is wrong", next_step="set it, plan again")
    if world.applied:
        return refused(
            "the plan was applied already",
            why="one plan, one move",
            next_step="`payouts offsets verify` looks at what it did; for another move make another plan",
        )
    return None


def active(world: World) -> CommandFailed | None:
    """The broker would refuse it, too."""
    if world.state in INACTIVE:
        return None
    named = ", ".join(world.members[:10]) or "members that it does not name"
    return CommandFailed(
        ExitCode.GROUP_ACTIVE,
        f"the group {world.group} is active ({world.state}): {named}",
        why="offsets are moved only while nobody reads: a worker would commit over them",
        next_step="stop the workers (and whatever scales them), then `payouts offsets show --wait-empty 120`; after a "
        "crash a member stays for its session, up to 45 s",
    )


def _moved(plan: OffsetPlan, world: World) -> CommandFailed | None:
    moved = [m for m in plan.moves if not _stands_as_planned(m, world)]
    if moved:
        first = moved[0]
        return refused(
            f"offsets moved since the plan in {len(moved)} partition(s), the first is {first.topic}-{first.partition}: "
            f"{_shown(first.old)} then, {_shown(world.committed.get(first.place))} now",
            why="what the plan counted is not what would be skipped or read again now",
            next_step="make a new plan and read it",
        )
    beyond = [m for m in plan.moves if world.bounds[m.place].nearest(m.new) != m.new]
    if beyond:
        first = beyond[0]
        held = world.bounds[first.place]
        return refused(
            f"{first.topic}-{first.partition} holds {held.earliest} to {held.latest}: {first.new} is beyond the log",
            why="records were removed since the plan, or the log was cut off",
            next_step="make a new plan and read it",
        )
    return None


def _stands_as_planned(move: Move, world: World) -> bool:
    found = world.committed.get(move.place)
    return found == move.old or (world.begun and found == move.new)


def _shown(offset: int | None) -> str:
    return "nothing" if offset is None else str(offset)


def skip_refusal(plan: OffsetPlan, typed: int | None) -> CommandFailed | None:
    """R2: who skips types how many payouts he skips, as he has read them."""
    skips = any(move.skipped for move in plan.moves)
    if not skips and typed is not None:
        return CommandFailed(
            ExitCode.USAGE, "this plan skips nothing", next_step="leave out --skip-payouts, and read the plan again"
        )
    if skips and typed != plan.skip.payouts:
        given = "it was not given" if typed is None else f"{typed} was given"
        return refused(
            "the plan skips records, and the number of payouts behind them must be typed exactly",
            why=f"{given}; every one of them is held until somebody releases it (R2)",
            next_step="read the plan's payouts and money, then add --skip-payouts with their number",
        )
    return None


# Taking a plan back.


def undo_of(plan: OffsetPlan, now: datetime) -> OffsetPlan:
    """The plan that takes this one back; made before it is applied."""
    moves = tuple(
        Move(**{**move.model_dump(), "old": move.new, "new": move.stands, "clamped": False}) for move in plan.moves
    )
    return plan.model_copy(
        update={
            "kind": "undo",
            "made_at": now,
            "max_age_seconds": UNDO_AGE_SECONDS,
            "target": "--undo",
            "moves": moves,
            "skip": plan.replay,
            "replay": plan.skip,
            "undoes": plan.digest,
        }
    )


def undo_refusal(undo: OffsetPlan, world: World) -> CommandFailed | None:
    """Why a plan may not be taken back now. That offsets moved since is no reason: it is made anew from there."""
    return _of_another(undo, world) or _too_old(undo, world) or active(world)


def undo_moves(undo: OffsetPlan, committed: Mapping[Place, int], bounds: Mapping[Place, Bounds]) -> tuple[Move, ...]:
    """From where the group stands now: back where the plan skipped, forward where it read again.

    A partition that has gone past where it stood before stays where it is.
    """
    moves = []
    for move in undo.moves:
        held, found = bounds[move.place], committed.get(move.place)
        stands = held.earliest if found is None else found
        before = held.nearest(move.new)
        is_past = stands >= before if move.delta > 0 else stands <= before
        new = stands if is_past or not move.delta else before
        moves.append(
            Move(
                topic=move.topic,
                partition=move.partition,
                earliest=held.earliest,
                latest=held.latest,
                old=found,
                new=new,
                clamped=before != move.new,
            )
        )
    return tuple(moves)
