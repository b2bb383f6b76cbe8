"""`payouts dlq list|show|replay|discard`: what was set aside, and what becomes of it (rule K6).

A replay puts the same bytes and key on the topic that they came from; nothing of it is decided here. The workers take
it as they take every record: the same payout_id is the same payout, so that no replay pays twice (L1, P5).
"""

import asyncio
import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ledger.interface import CommitUnknown, LedgerError
from ledger.letter_actions import LetterAction, LetterDone
from ledger.postgres import PostgresLedger
from ops.action_plans import Ended
from ops.application import ending, new_app
from ops.asynchronous import connected_ledger, run
from ops.dead_letters import (
    REQUESTS,
    Contents,
    Letter,
    LetterState,
    Meaning,
    NotOpened,
    Shelf,
    is_whole,
    meaning_of,
    opened,
    state_of,
    table_name,
)
from ops.effects import totals_text
from ops.environment import DATABASE, KAFKA, codec_for, settings_for
from ops.events import parse_since
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, not_found, refused, usage_error
from ops.kafka import send_one
from ops.money_text import amount_text
from ops.operator_actions import Answers, DryRunOption, OperatorOption, ReasonOption, YesOption, answers, said, who
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message
from processors.sealing import EnvelopeOpener
from schemas.topics import TOPICS
from schemas.trace_context import TRACEPARENT_HEADER
from streams.dead_letters import DEAD_LETTER_TOPIC, FIRST_TAKEN_HEADER, REPLAYED_HEADER
from streams.keys import DEAD_LETTER_KEY_FILE, KeysUnusable, load_dead_letter_opener
from streams.settings import Settings

LETTERS_MAX: Final = 200
"""Acted on at once: more than anybody reads on a screen before he says yes."""
LISTED: Final = 100
LISTED_MAX: Final = 10_000
SCANNED_MAX: Final = 50_000
"""Letters held in memory for a list, without what is in them: some tens of megabytes."""
LOOKED_UP_AT_ONCE: Final = 1_000

LETTER_COLUMNS: Final = (
    Column("letter", "LETTER"),
    Column("reason_code", "REASON"),
    Column("taken_at", "RECORD OF"),
    Column("set_aside_at", "SET ASIDE"),
    Column("length_bytes", "BYTES", right=True),
    Column("state", "STATE"),
    Column("by", "BY"),
)
PLAN_COLUMNS: Final = (
    Column("letter", "LETTER"),
    Column("reason_code", "REASON"),
    Column("payout_id", "PAYOUT"),
    Column("amount", "AMOUNT", right=True),
    Column("plan", "PLAN"),
    Column("effects", "WHAT FOLLOWS"),
)
RESULT_COLUMNS: Final = (
    Column("letter", "LETTER"),
    Column("payout_id", "PAYOUT"),
    Column("amount", "AMOUNT", right=True),
    Column("result", "RESULT"),
    Column("record", "RECORD"),
    Column("why", "WHY"),
)
CODES: Final = (ExitCode.FOUND, ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE)

app = new_app("Dead letters: records that could not become a payout, encrypted. Funding may be captured behind one.")

LetterArgument = Annotated[
    str, typer.Argument(metavar="LETTER", help="TOPIC-PARTITION-OFFSET, as `payouts dlq list` shows it.")
]
LettersArgument = Annotated[
    list[str], typer.Argument(metavar="LETTER", help="TOPIC-PARTITION-OFFSET, as `payouts dlq list` shows them.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", help=f"The private key; {DEAD_LETTER_KEY_FILE} of PAYOUTS_KEYS_DIRECTORY when not given."),
]
AgainOption = Annotated[bool, typer.Option("--again", help="Although it was replayed or discarded before.")]


@dataclass(frozen=True, slots=True)
class LetterPlan:
    """One letter as it is, and what would be done with it."""

    name: str
    letter: Letter | None
    done: Sequence[LetterDone] = ()
    ended: Ended = Ended.PLANNED
    """PLANNED, or why nothing is done."""
    why: str = ""
    contents: Contents | None = None
    meaning: Meaning | None = None
    effects: tuple[str, ...] = ()
    record: str | None = None
    """Where it was put back."""

    @property
    def last_number(self) -> int:
        """The newest action that this plan has seen."""
        return self.done[-1].number if self.done else 0


# Looking.


@app.command(
    "list",
    epilog=ending(
        "payouts dlq list",
        "payouts dlq list --state open --topic payout_requests --since 24h",
        "payouts dlq list --reason-code UNKNOWN_SCHEMA_ID --state all --output json",
        codes=(ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE),
    ),
)
def list_(
    state: Annotated[
        str, typer.Option(help="open (nobody has replayed or discarded it), replayed, discarded or all.")
    ] = "open",
    topic: Annotated[str | None, typer.Option(help="Only records of this topic, for example payout_requests.")] = None,
    reason_code: Annotated[str | None, typer.Option(help="Only those set aside for this reason.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE|TIME", help="Set aside since then: 30m, 24h, 7d, or ISO 8601 with zone.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=LISTED_MAX, help="At most so many, the newest.")] = LISTED,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show where dead letters came from, why, when, and what became of them; never what is in them. Changes nothing.

    The topic is read without a consumer group. A letter of which only the beginning of a replay is known is open, too.
    """
    wanted = _states(state)
    if topic is not None and topic not in TOPICS:
        raise usage_error("no such topic", next_step="`payouts topics list` shows their names")
    settings = settings_for(KAFKA, DATABASE)
    start = None if since is None else parse_since(since, datetime.now(UTC))
    shelf = Shelf(settings, since=start)
    found: dict[tuple[str, str], Letter] = {}
    for letter in shelf.letters(with_content=False):
        if reason_code in (None, letter.reason_code) and topic in (None, table_name(letter.topic, _prefix(settings))):
            found[letter.name, letter.sha256] = letter
        if len(found) >= SCANNED_MAX:
            break
    done = run(_done(settings, sorted({letter.name for letter in found.values()})))
    rows = [_listed(letter, done.get(place, [])) for place, letter in found.items()]
    rows = sorted((row for row in rows if row["state"] in wanted), key=_by_time)
    emit_rows(rows[-limit:], LETTER_COLUMNS, output)
    _tell_list(rows, limit, shelf, len(found))


def _states(state: str) -> frozenset[str]:
    is_open = frozenset({LetterState.OPEN.value, LetterState.REPLAY_BEGUN.value})
    known = {
        "open": is_open,
        "replayed": frozenset({LetterState.REPLAYED.value}),
        "discarded": frozenset({LetterState.DISCARDED.value}),
        "all": frozenset(one.value for one in LetterState),
    }
    if state not in known:
        raise usage_error("no such --state", next_step=f"choose among {', '.join(known)}")
    return known[state]


def _prefix(settings: Settings) -> str:
    return settings.payouts_topic_prefix


def _by_time(row: Mapping[str, Any]) -> tuple[datetime, str]:
    return row["set_aside_at"] or datetime.min.replace(tzinfo=UTC), row["letter"]


def _tell_list(rows: Sequence[Mapping[str, Any]], limit: int, shelf: Shelf, scanned: int) -> None:
    counted: dict[str, int] = {}
    for row in rows:
        counted[row["reason_code"]] = counted.get(row["reason_code"], 0) + 1
    reasons = ", ".join(f"{count} {code}" for code, count in sorted(counted.items()))
    message(f"{len(rows)} letter(s){': ' + reasons if reasons else ''}.")
    if len(rows) > limit:
        message(f"Shown are the newest {limit} of them.")
    if shelf.strangers:
        message(f"{shelf.strangers} record(s) of the topic are no letters of ours and were left out.")
    if not shelf.complete:
        how = "in time" if scanned < SCANNED_MAX else f"within {SCANNED_MAX} letters"
        what = f"the end of the topic was not reached {how}: this is not all"
        raise CommandFailed(ExitCode.PARTIAL, what, next_step="give --since, --topic or --reason-code")


async def _done(settings: Settings, names: Sequence[str]) -> dict[tuple[str, str], list[LetterDone]]:
    """What was done with these letters, by name and SHA-256."""
    found: dict[tuple[str, str], list[LetterDone]] = {}
    async with connected_ledger(settings) as ledger:
        for first in range(0, len(names), LOOKED_UP_AT_ONCE):
            for action in await ledger.letter_actions.actions(names[first : first + LOOKED_UP_AT_ONCE]):
                found.setdefault((action.letter, action.sha256), []).append(action)
    return found


def _listed(letter: Letter, done: Sequence[LetterDone]) -> dict[str, Any]:
    state, by = state_of(done)
    return {
        "letter": letter.name,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "reason_code": letter.reason_code,
        "taken_at": letter.taken_at,
        "set_aside_at": letter.set_aside_at,
        "length_bytes": letter.length_bytes,
        "truncated": letter.truncated,
        "sha256": letter.sha256,
        "replay_of": letter.replay_of,
        "state": state.value,
        "by": None if by is None else f"{by.operator} {by.at:%Y-%m-%d %H:%MZ}",
    }


@app.command(
    "show",
    epilog=ending(
        "payouts dlq show payout_requests-3-1207",
        "payouts dlq show payout_requests-3-1207 --key /media/safe/dead_letter_private.jwk.json --output json",
        'payouts dlq show payout_requests-3-1207 --reveal record.bin --reason "INC-127: sent to its producer"',
        codes=CODES,
    ),
)
def show(
    letter: LetterArgument,
    key: KeyOption = None,
    reveal: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the record's own bytes to a new file that only you can read."),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="With --reveal: why; stays in the ledger's history. No names, no card numbers.")
    ] = None,
    operator: OperatorOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one dead letter: where it came from, what was done with it, and, for who has the key, what it says.

    Of what can be read only harmless fields are shown, masked; of what cannot be read only its form. --reveal writes
    everything, card numbers included, to a file and never to the screen; who did it and why is recorded first, for
    ever. Nobody can undo having read it: delete the file when you are done.
    """
    why, name = (None, "") if reveal is None else (said(reason or "", "--reason"), who(operator))
    if reveal is None and reason is not None:
        raise usage_error("--reason goes with --reveal", next_step="nothing is recorded of a plain show")
    settings = settings_for(KAFKA, DATABASE)
    opener = _opener(settings, key, needed=key is not None or reveal is not None)
    (plan,) = _found(settings, [letter], opener)
    if plan.letter is None:
        raise not_found(plan.why, next_step="`payouts dlq list --state all` shows what there is")
    if opener is not None:
        plan = _with_contents(settings, [plan], opener)[0]
        if plan.contents is None and reveal is not None:
            raise refused("the letter cannot be opened", why=plan.why)
    if reveal is not None and why is not None and plan.contents is not None:
        _reveal(settings, plan, reveal, name, why)
    emit_object(_described(plan, with_key=opener is not None), output)


def _described(plan: LetterPlan, *, with_key: bool) -> dict[str, Any]:
    letter = plan.letter
    if letter is None:
        return {"letter": plan.name}
    facts: dict[str, Any] = {
        **_listed(letter, plan.done),
        "error": letter.error,
        "first_taken_at": letter.first_taken_at,
        "encrypted_to": letter.key_id,
        "lies_at": "{}-{}-{}".format(*letter.place),
        "actions": [
            f"{action.number}. {action.at:%Y-%m-%d %H:%M:%SZ} {action.action.value} by {action.operator}: "
            f"{action.reason}"
            for action in plan.done
        ],
    }
    if not with_key:
        return facts | {"content": "closed: the dead-letter key is not here"}
    if plan.meaning is None:
        return facts | {"content": f"not opened: {plan.why}"}
    content = {name: value for name, value in plan.meaning.shown.items() if value is not None}
    return facts | {
        "schema": plan.meaning.schema,
        "would_be": plan.meaning.problem or "taken",
        "content": content,
    }


def _reveal(settings: Settings, plan: LetterPlan, path: Path, operator: str, reason: str) -> None:
    """The file is made first, so that nothing is recorded that could not be done; then the record, then the bytes."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise refused(
            "the file of --reveal cannot be made",
            why=error.strerror or type(error).__name__,
            next_step="name a new one",
        ) from None
    try:
        faster = run(_act(settings, plan, LetterAction.REVEALED, operator, reason))
    except BaseException:
        _unmade(path, descriptor)
        raise
    if faster is not None:
        _unmade(path, descriptor)
        raise refused("the letter was acted on meanwhile", why=faster, next_step="look at it again")
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"" if plan.contents is None else plan.contents.value)
    message(f"The record is in {path}, unencrypted: it may hold card numbers. Delete it when you are done.")


def _unmade(path: Path, descriptor: int) -> None:
    os.close(descriptor)
    with contextlib.suppress(OSError):
        path.unlink()


async def _act(settings: Settings, plan: LetterPlan, action: LetterAction, operator: str, reason: str) -> str | None:
    async with connected_ledger(settings) as ledger:
        return await _acted(ledger, plan, action, operator, reason)


async def _acted(
    ledger: PostgresLedger,
    plan: LetterPlan,
    action: LetterAction,
    operator: str,
    reason: str,
    *,
    after: int | None = None,
    detail: Mapping[str, Any] | None = None,
) -> str | None:
    """Write it down; None when that is done, else who was faster. Raises CommitUnknown, LedgerUnavailable."""
    letter = plan.letter
    if letter is None:
        return plan.why
    number = await ledger.letter_actions.act(
        letter.name,
        letter.sha256,
        after=plan.last_number if after is None else after,
        action=action,
        operator=operator,
        reason=reason,
        was=state_of(plan.done)[0].value,
        detail=detail,
    )
    if number is not None:
        return None
    others = [one for one in await ledger.letter_actions.actions([letter.name]) if one.sha256 == letter.sha256]
    newest = others[-1]
    return f"{newest.operator} was faster: {newest.action.value} at {newest.at:%H:%M:%SZ}; look at it again"


# Acting.


@app.command(
    "replay",
    epilog=ending(
        'payouts dlq replay payout_requests-3-1207 --reason "INC-127: workers know the schema now" --dry-run',
        'payouts dlq replay payout_requests-3-1207 payout_requests-3-1208 --reason "INC-127" --operator maria --yes',
        'payouts dlq replay payout_requests-3-1207 --again --reason "INC-127: the first one was set aside" --yes',
        codes=CODES,
    ),
)
def replay(
    letters: LettersArgument,
    reason: ReasonOption,
    again: AgainOption = False,
    key: KeyOption = None,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put dead letters back on the topic that they came from: the same bytes, the same key, the same payout_id.

    Workers take them like every record: a payout_id that the ledger knows is answered again or refused, never paid
    twice; what they still cannot read is set aside again. There is no undo: what a worker has taken goes its way, and
    is stopped like any payout with `payouts hold`. Needs the dead-letter key.
    """
    why, name = said(reason, "--reason"), who(operator)
    wanted = answers(yes=yes, dry_run=dry_run, wait=None, output=output)
    settings = settings_for(KAFKA, DATABASE)
    opener = _opener(settings, key, needed=True)
    plans = _with_contents(settings, _found(settings, letters, opener), opener)
    plans = run(_replay_plans(settings, plans, again=again))
    if _agreed("replay", name, plans, wanted):
        plans = run(_replayed(settings, plans, name, why))
    _tell("replay", name, plans, wanted)


@app.command(
    "discard",
    epilog=ending(
        'payouts dlq discard payout_requests-3-1207 --reason "INC-127: a test record, nothing was captured" --dry-run',
        'payouts dlq discard payout_requests-3-1207 --reason "INC-127: its sender gave the money back" --yes',
        codes=CODES,
    ),
)
def discard(
    letters: LettersArgument,
    reason: ReasonOption,
    key: KeyOption = None,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Note that nothing more is done about dead letters. Nothing is deleted: the topic keeps them until it forgets.

    Nobody is told: its sender must know before. Undo by `payouts dlq replay --again`, as long as the topic keeps it.
    With the dead-letter key the money behind each is shown.
    """
    why, name = said(reason, "--reason"), who(operator)
    wanted = answers(yes=yes, dry_run=dry_run, wait=None, output=output)
    settings = settings_for(KAFKA, DATABASE)
    opener = _opener(settings, key, needed=key is not None)
    plans = [_discard_plan(plan) for plan in _with_contents(settings, _found(settings, letters, opener), opener)]
    if _agreed("discard", name, plans, wanted):
        plans = run(_discarded(settings, plans, name, why))
    _tell("discard", name, plans, wanted)


def _opener(settings: Settings, key: Path | None, *, needed: bool) -> EnvelopeOpener | None:
    """The private key, if it is here. Raises KeysUnusable when it is needed."""
    path = key or settings.payouts_keys_directory / DEAD_LETTER_KEY_FILE
    if not needed and not path.is_file():
        return None
    try:
        return load_dead_letter_opener(path)
    except KeysUnusable:
        if needed:
            raise
        return None


def _found(settings: Settings, names: Sequence[str], opener: EnvelopeOpener | None = None) -> list[LetterPlan]:
    """The letters of these names as they are now, each once. Raises CommandFailed."""
    wanted = list(dict.fromkeys(names))
    if len(wanted) > LETTERS_MAX:
        raise usage_error(f"more than {LETTERS_MAX} letters at once", next_step="give fewer: the plan must be readable")
    asked = {name: name.partition("@") for name in wanted}
    found: dict[str, dict[str, Letter]] = {name: {} for name in wanted}
    shelf = Shelf(settings)
    for letter in shelf.letters():
        for name, (place, _, digest) in asked.items():
            if letter.name == place and letter.sha256.startswith(digest):
                kept = found[name].setdefault(letter.sha256, letter)
                if kept is not letter:
                    _refuse_other_key(opener, kept, letter)
                    found[name][letter.sha256] = _genuine(opener, kept, letter)
    if not shelf.complete:
        raise CommandFailed(ExitCode.PARTIAL, "the topic was not read to its end in time: nothing was changed")
    done = run(_done(settings, sorted({letter.name for same in found.values() for letter in same.values()})))
    return [_named(name, list(found[name].values()), done) for name in wanted]


def _refuse_other_key(opener: EnvelopeOpener | None, *copies: Letter) -> None:
    """The SHA-256 is of the value alone: of two letters with the same value and other keys one is not a worker's."""
    if opener is None:
        return
    keys = {opened(opener, letter).key for letter in copies if _is_what_it_says(opener, letter)}
    if len(keys) > 1:
        raise refused(
            f"there are two letters {copies[0].name} whose records have the same bytes and different keys",
            why="one of them was not written by a worker of ours",
            next_step="find out who writes to payout_dead_letters; the sender of the request can send it again",
        )


def _genuine(opener: EnvelopeOpener | None, *copies: Letter) -> Letter:
    """Of letters that say the same of themselves the one that is what it says, else the first by place.

    A record that is taken twice is set aside twice. But anybody can encrypt to a public key and copy the headers of a
    letter: the copy must neither be acted on nor hide the letter.
    """
    return min(copies, key=lambda letter: (opener is not None and not _is_what_it_says(opener, letter), letter.place))


def _is_what_it_says(opener: EnvelopeOpener, letter: Letter) -> bool:
    """Whole, and with the bytes of its SHA-256."""
    try:
        opened(opener, letter)
    except NotOpened:
        return False
    return not letter.truncated


def _named(name: str, letters: Sequence[Letter], done: Mapping[tuple[str, str], Sequence[LetterDone]]) -> LetterPlan:
    if not letters:
        return LetterPlan(name, None, ended=Ended.NOT_FOUND, why="the topic holds no letter of this name")
    if len(letters) > 1:
        choices = ", ".join(f"{letter.name}@{letter.sha256[:12]}" for letter in letters)
        why = f"two records had this place, because the topic was made anew: name one of {choices}"
        return LetterPlan(name, None, ended=Ended.REFUSED, why=why)
    (letter,) = letters
    return LetterPlan(letter.name, letter, done.get((letter.name, letter.sha256), []))


def _with_contents(settings: Settings, plans: Sequence[LetterPlan], opener: EnvelopeOpener | None) -> list[LetterPlan]:
    """The plans with what is in the letters, as far as the key opens them."""
    if opener is None:
        return list(plans)
    with codec_for(settings) as codec:
        result = []
        for plan in plans:
            if plan.letter is None:
                result.append(plan)
                continue
            try:
                contents = opened(opener, plan.letter)
            except NotOpened as error:
                result.append(replace(plan, why=str(error)))
                continue
            meaning = meaning_of(plan.letter, contents, codec, _prefix(settings))
            result.append(replace(plan, contents=contents, meaning=meaning))
        return result


async def _replay_plans(settings: Settings, plans: Sequence[LetterPlan], *, again: bool) -> list[LetterPlan]:
    async with connected_ledger(settings) as ledger:
        places = [plan.letter.source for plan in plans if plan.letter is not None]
        recorded = await ledger.letter_actions.recorded(places) if places else set()
        return [await _replay_plan(settings, ledger, plan, recorded, again=again) for plan in plans]


async def _replay_plan(
    settings: Settings,
    ledger: PostgresLedger,
    plan: LetterPlan,
    recorded: Iterable[tuple[str, int, int]],
    *,
    again: bool,
) -> LetterPlan:
    if plan.letter is None:
        return plan
    refusal = _why_not_replayed(settings, plan, plan.letter, recorded, again=again)
    if refusal is not None:
        return replace(plan, ended=Ended.REFUSED, why=refusal)
    effects = await _effects(ledger, plan.meaning or Meaning())
    return replace(plan, effects=tuple(effects))


def _why_not_replayed(
    settings: Settings, plan: LetterPlan, letter: Letter, recorded: Iterable[tuple[str, int, int]], *, again: bool
) -> str | None:
    if table_name(letter.topic, _prefix(settings)) is None:
        return f"it comes from {letter.topic}, which no worker of ours reads"
    if letter.source not in set(recorded):
        return "the ledger knows of no such dead letter: was it written by somebody else, or the database restored?"
    if plan.contents is None:
        return plan.why or "it cannot be opened"
    broken = is_whole(letter, plan.contents)
    if broken is not None:
        return broken
    state, by = state_of(plan.done)
    if by is not None and not again:
        return f"{state.value} by {by.operator} at {by.at:%Y-%m-%d %H:%MZ} ({by.reason}): --again, if that is right"
    return None


async def _effects(ledger: PostgresLedger, meaning: Meaning) -> list[str]:
    """What the workers make of it, in money first."""
    if meaning.problem is not None:
        return [f"no money moves: this release cannot take it ({meaning.problem}), so it is set aside again"]
    payout_id = meaning.payout_id or ""
    row = await ledger.read(payout_id) if payout_id.isprintable() else None
    if meaning.schema != "PayoutRequest":
        state = "which the ledger does not know" if row is None else f"which is {row.state.value}"
        return [f"a {meaning.schema} for {payout_id}, {state}: taken as if it came again, counts only if it still can"]
    money = _amount(meaning)
    if row is None:
        return [f"becomes a payout: MONEY MOVES, {money} to the recipient, unless validation or screening stops it"]
    same = f"nothing new is paid: {payout_id} is {row.state.value} in the ledger with "
    same += f"{amount_text(row.amount_minor, row.currency)}"
    return [same, "the same content is answered again, other content is refused"]


def _amount(meaning: Meaning | None) -> str | None:
    if meaning is None or meaning.amount_minor is None or meaning.currency is None:
        return None
    return amount_text(meaning.amount_minor, meaning.currency)


def _discard_plan(plan: LetterPlan) -> LetterPlan:
    if plan.letter is None:
        return plan
    state, by = state_of(plan.done)
    if state is LetterState.DISCARDED and by is not None:
        return replace(plan, ended=Ended.UNCHANGED, why=f"discarded by {by.operator} already")
    effects = []
    if plan.letter.topic.endswith(REQUESTS):
        money = _amount(plan.meaning)
        what = "a request" if money is None else f"a request for {money}"
        effects.append(f"{what} stays unpaid and unanswered; funding may be captured behind it: its sender must know")
    if state is not LetterState.OPEN and by is not None:
        effects.append(f"{state.value} by {by.operator}: what a worker made of that stays")
    days = TOPICS[DEAD_LETTER_TOPIC].retention_ms // 86_400_000
    effects.append(f"the topic keeps it for {days} days; after that it cannot be replayed")
    return replace(plan, why="", effects=tuple(effects))


async def _replayed(settings: Settings, plans: Sequence[LetterPlan], operator: str, reason: str) -> list[LetterPlan]:
    async with connected_ledger(settings) as ledger:
        return [await _replay_one(settings, ledger, plan, operator, reason) for plan in plans]


async def _replay_one(
    settings: Settings, ledger: PostgresLedger, plan: LetterPlan, operator: str, reason: str
) -> LetterPlan:
    """The ledger first, so that one of two people wins; then the broker; then the ledger again, with the place."""
    if plan.letter is None or plan.contents is None or plan.ended is not Ended.PLANNED:
        return plan
    letter, contents = plan.letter, plan.contents
    try:
        faster = await _acted(ledger, plan, LetterAction.REPLAY_BEGUN, operator, reason)
    except LedgerError as error:
        return replace(plan, ended=Ended.NOT_KNOWN, why=_not_written(error))
    if faster is not None:
        return replace(plan, ended=Ended.REFUSED, why=faster)
    try:
        record = await asyncio.to_thread(
            send_one, settings, letter.topic, contents.key, contents.value, replay_headers(letter)
        )
    except CommandFailed as error:
        why = f"{error.what}: run it again with --again, a repeat is harmless"
        return replace(plan, ended=Ended.NOT_KNOWN, why=why)
    place = f"{record.topic()}-{record.partition()}-{record.offset()}"
    detail = {"record": place, "reason_code": letter.reason_code}
    done = replace(plan, ended=Ended.DONE, record=place)
    try:
        mine = plan.last_number + 1
        faster = await _acted(ledger, plan, LetterAction.REPLAYED, operator, reason, after=mine, detail=detail)
    except LedgerError:
        return replace(done, why="it is on the topic; the ledger may say only that the replay was begun")
    return done if faster is None else replace(done, why=f"it is on the topic; {faster}")


def replay_headers(letter: Letter) -> list[tuple[str, bytes]]:
    """What tells a record that was put back from one that its producer sent."""
    headers = [(REPLAYED_HEADER, letter.name.encode())]
    first = letter.first_taken_at or letter.set_aside_at
    if first is not None:
        headers.append((FIRST_TAKEN_HEADER, first.isoformat().encode()))
    if letter.traceparent is not None:
        headers.append((TRACEPARENT_HEADER, letter.traceparent.encode()))
    return headers


def _not_written(error: LedgerError) -> str:
    if isinstance(error, CommitUnknown):
        return "it is not known whether PostgreSQL took the note; nothing was put back: look at it again"
    return f"the ledger cannot be used, nothing was put back ({error})"


async def _discarded(settings: Settings, plans: Sequence[LetterPlan], operator: str, reason: str) -> list[LetterPlan]:
    async with connected_ledger(settings) as ledger:
        return [await _discard_one(ledger, plan, operator, reason) for plan in plans]


async def _discard_one(ledger: PostgresLedger, plan: LetterPlan, operator: str, reason: str) -> LetterPlan:
    if plan.letter is None or plan.ended is not Ended.PLANNED:
        return plan
    try:
        faster = await _acted(
            ledger, plan, LetterAction.DISCARDED, operator, reason, detail={"reason_code": plan.letter.reason_code}
        )
    except LedgerError as error:
        return replace(plan, ended=Ended.NOT_KNOWN, why=f"{error}; look at it again")
    if faster is not None:
        return replace(plan, ended=Ended.REFUSED, why=faster)
    return replace(plan, ended=Ended.DONE)


# Telling.


def _agreed(action: str, operator: str, plans: Sequence[LetterPlan], wanted: Answers) -> bool:
    """Show the plan and its money; whether it is to be done. Raises CommandFailed when it was not agreed to."""
    if wanted.output is Output.TABLE:
        emit_rows([_plan_line(action, plan) for plan in plans], PLAN_COLUMNS, Output.TABLE)
        print()
    to_do = [plan for plan in plans if plan.ended is Ended.PLANNED]
    if to_do:
        message(f"{action}: {len(to_do)} letter(s), {totals_text(_money(to_do))} known behind them, by {operator}.")
    if wanted.dry_run or not to_do:
        return False
    if not wanted.yes and not typer.confirm(f"Do it ({action}, as {operator})?", err=True):
        raise CommandFailed(ExitCode.FOUND, "nothing was changed", why="the plan was not agreed to")
    return True


def _money(plans: Iterable[LetterPlan]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for meaning in (plan.meaning for plan in plans):
        if meaning is not None and meaning.amount_minor is not None and meaning.currency is not None:
            totals[meaning.currency] = totals.get(meaning.currency, 0) + meaning.amount_minor
    return dict(sorted(totals.items()))


def _line(plan: LetterPlan) -> dict[str, Any]:
    return {
        "letter": plan.name,
        "reason_code": None if plan.letter is None else plan.letter.reason_code,
        "payout_id": None if plan.meaning is None else plan.meaning.payout_id,
        "amount": _amount(plan.meaning),
    }


def _plan_line(action: str, plan: LetterPlan) -> dict[str, Any]:
    text = action if plan.ended is Ended.PLANNED else f"{plan.ended.value}: {plan.why}"
    return {**_line(plan), "plan": text, "effects": "; ".join(plan.effects)}


def _tell(action: str, operator: str, plans: Sequence[LetterPlan], wanted: Answers) -> None:
    lines = [
        {**_line(plan), "result": plan.ended.value, "why": plan.why, "record": plan.record, "effects": plan.effects}
        for plan in plans
    ]
    if wanted.output is Output.JSON:
        acted_on = [plan for plan in plans if plan.ended in (Ended.PLANNED, Ended.DONE)]
        document = {"action": action, "operator": operator, "dry_run": wanted.dry_run, "money": _money(acted_on)}
        emit_object(document | {"letters": lines}, Output.JSON)
    elif wanted.dry_run:
        message("Nothing was changed (--dry-run).")
    else:
        emit_rows(lines, RESULT_COLUMNS, Output.TABLE)
    code = exit_code([plan.ended for plan in plans])
    if code is not ExitCode.OK:
        raise typer.Exit(code)


def exit_code(ends: Sequence[Ended]) -> ExitCode:
    """All well: 0. Nothing of it: why. A part of it: 5."""
    well = [end for end in ends if end in (Ended.PLANNED, Ended.DONE, Ended.UNCHANGED)]
    if len(well) == len(ends):
        return ExitCode.OK
    if well:
        return ExitCode.PARTIAL
    if Ended.NOT_KNOWN in ends:
        return ExitCode.UNREACHABLE
    return ExitCode.REFUSED if Ended.REFUSED in ends else ExitCode.FOUND
