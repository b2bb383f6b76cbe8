"""`payouts ledger adopt`: a database that was put back from a copy becomes the one that we know (rule L11).

Nothing leaves before: the workers found that the copy is not what `payout_audit` tells of, and wait. What is done is
shown first, in payouts and money. It can be run again at any time: what is done already is not done twice, what an
interrupted run left (publishing, the completeness readers' marks) is finished.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from ledger.adoption import Adopted, AdoptionPlan, Overtaken, Sum
from ledger.guard import Published, Verdict
from ledger.postgres import PostgresLedger
from ops.application import ending
from ops.asynchronous import connected_ledger, run
from ops.environment import DATABASE, KAFKA, codec_for, registry_of, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, refused, unreachable
from ops.kafka import ConfirmedProducer, Reading, connect_admin, not_confirmed, our_topics, reader, spans
from ops.money_text import amount_text
from ops.operator_actions import DryRunOption, OperatorOption, ReasonOption, YesOption, answers, said, who
from ops.options import OutputOption
from ops.output import Output, emit_object, message
from processors.payout.row import UNPAID_ENDS
from processors.visa.identity import IdentityError, sequence_number
from schemas.codec import BlockingCodec, Codec, PinnedResolver, RegistryResolver, RegistryUnavailable, Undecodable
from schemas.topics import topic_name
from streams.audit_topic import AUDIT_TOPIC, SCHEMA, TAIL_RECORDS, AuditTopic, Lost, headers_of
from streams.completeness import INBOUND_TOPICS, KafkaRecords
from streams.holes import Unreadable
from streams.intake import can_be_a_key
from streams.kafka_connection import confluent_config
from streams.settings import Settings

PUBLISH_BATCHES_MAX: Final = 20
"""Records are published here so that nobody has to wait for a worker; what is left after this the workers publish."""
REQUEST_TOPIC: Final = "payout_requests"
KNOWN_CHUNK: Final = 5_000
"""Results that are looked up in one statement."""


@dataclass(slots=True)
class Told:
    """What `payout_results` told of payouts since the copy was made."""

    highest_number: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    results: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    """Status, currency and amount, of the highest version."""


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that is shown before anything is done."""

    plan: AdoptionPlan
    lost: Lost
    told: Sequence[Sum]
    """Results that originators have and the copy does not."""
    marks: Mapping[str, Mapping[int, int]]
    """Where the requests are read again from: topic, partition, offset."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "adopt",
        epilog=ending(
            'payouts ledger adopt --reason "INC-124: restored from the copy of 10:00" --dry-run',
            'payouts ledger adopt --reason "INC-124: restored from the copy of 10:00" --operator maria --yes',
            codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
        ),
    )(adopt)


def adopt(
    reason: ReasonOption,
    although_known: Annotated[
        bool,
        typer.Option(
            "--although-known",
            help="Adopt what the audit agrees with: a worker said FORGOTTEN, or less than a second was lost.",
        ),
    ] = False,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a database that was restored from a copy the one that pays, without paying anything twice.

    The identity numbers move past all that may be out, what may have gone further in the lost time is held
    (LEDGER_RESTORED), requests of that time come in again and are held, too; so is whatever the topics name and
    the copy does not, when it is asked for anew. The chain of the audit goes on with a record that says so. Only then
    do calls leave again. Each held payout is then checked with Visa: see the runbook.
    There is no undo: numbers and chain never go back. `payouts modes set halted` stops calls that left too early.
    """
    why, name = said(reason, "--reason"), who(operator)
    wanted = answers(yes=yes, dry_run=dry_run, wait=None, output=output)
    settings = settings_for(KAFKA, DATABASE)
    try:
        told = _told_since(settings, run(_certain_at(settings)))
        look = run(_look(settings, told, although_known=although_known))
        if output is Output.TABLE or dry_run:
            emit_object(_shown(look), output)
        if dry_run:
            return
        if not _is_needed(look):
            message("This database is the one that we know: nothing to adopt.")
            if output is Output.JSON:
                emit_object(_shown(look), output)
            return
        _ask(look, yes=wanted.yes, name=name)
        done = run(_done(settings, look, name, why))
    except Unreadable as error:
        raise unreachable("Kafka could not be read", why=str(error), next_step="try again when it answers") from None
    except Overtaken as error:
        raise refused(str(error), why="another run of this command won", next_step="look with --dry-run") from None
    _tell(look, done, output)


def _is_needed(look: Look) -> bool:
    return look.plan.verdict is not Verdict.KNOWN or any(look.marks.values())


def _ask(look: Look, *, yes: bool, name: str) -> None:
    if not look.plan.is_physical:
        raise refused(
            "this database was copied row by row (a dump)",
            why="its history has lost its order, so that nothing more of it could be sealed",
            next_step="restore a physical copy, or one of ours: `payouts ledger restore`",
        )
    if not yes and not typer.confirm(f"Adopt this database, as {name}?", err=True):
        raise CommandFailed(ExitCode.FOUND, "nothing was changed", why="the plan was not agreed to")


# Looking.


async def published_now(settings: Settings) -> tuple[Published | None, str | None]:
    """The last record of the audit, or why it could not be read."""
    codec = _codec(settings)
    audit = AuditTopic(confluent_config(settings), codec, settings.payouts_topic_prefix)
    try:
        return await audit(), None
    except (Unreadable, RegistryUnavailable) as error:
        return None, str(error)
    finally:
        await audit.close()
        await codec.close()


async def _look(settings: Settings, told: Told, *, although_known: bool) -> Look:
    codec = _codec(settings)
    audit = AuditTopic(confluent_config(settings), codec, settings.payouts_topic_prefix)
    records = KafkaRecords(confluent_config(settings), settings.group)
    try:
        published = await audit()
        async with connected_ledger(settings) as ledger:
            _, standing = await ledger.seals.examine(published)
            lost = await audit.lost_after(standing.head.sequence)
            verified = await ledger.verified_offsets(topic_name(REQUEST_TOPIC, settings.payouts_topic_prefix))
            named = {*lost.states, *told.versions, *await asyncio.to_thread(_asked_for, settings, verified)}
            unpaid = {state.value for state in UNPAID_ENDS}
            ended = sorted(name for name, state in lost.states.items() if state in unpaid)
            highest = max(told.highest_number, lost.identity_position)
            plan = await ledger.adoption.plan(published, ended_unpaid=ended, told_of=named, highest_number=highest)
            if although_known and plan.verdict is Verdict.KNOWN:
                plan = replace(plan, verdict=Verdict.FORGOTTEN)
            return Look(plan, lost, await _unknown_results(ledger, told), await _marks_ahead(settings, ledger, records))
    finally:
        await audit.close()
        await records.close()
        await codec.close()


def _codec(settings: Settings) -> Codec:
    url = registry_of(settings)
    return Codec(RegistryResolver(url) if url else PinnedResolver(), topic_prefix=settings.payouts_topic_prefix)


async def _certain_at(settings: Settings) -> datetime:
    async with connected_ledger(settings) as ledger:
        return await ledger.adoption.certain_at()


def _told_since(settings: Settings, since: datetime) -> Told:
    """The results that were published since, and the highest number that they show (rule S1)."""
    told = Told()
    admin = connect_admin(settings)
    to_read = spans(admin, our_topics(admin, settings, ["payout_results"]), since=since)
    with reader(settings) as consumer, codec_for(settings) as codec:
        for record in Reading(consumer, to_read, follow=False, timeout_seconds=None).records():
            value = record.value()
            with suppress(Undecodable):
                _note(told, codec.decode("PayoutResult", value if isinstance(value, bytes) else b"").record)
    return told


def _note(told: Told, result: Mapping[str, Any]) -> None:
    trace_number, reference = result["systems_trace_audit_number"], result["retrieval_reference_number"]
    if trace_number is not None and reference is not None:
        with suppress(IdentityError):
            told.highest_number = max(told.highest_number, sequence_number(int(trace_number), str(reference)))
    payout_id, version = str(result["payout_id"]), int(result["version"])
    if not can_be_a_key(payout_id):
        return
    if version >= told.versions.get(payout_id, 0):
        told.versions[payout_id] = version
        money = result["amount"]
        told.results[payout_id] = (str(result["status"]), str(money["currency"]), int(money["amount_minor"]))


async def _unknown_results(ledger: PostgresLedger, told: Told) -> list[Sum]:
    versions = list(told.versions.items())
    unknown: set[str] = set()
    for start in range(0, len(versions), KNOWN_CHUNK):
        unknown |= await ledger.adoption.unknown_of(dict(versions[start : start + KNOWN_CHUNK]))
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for payout_id in unknown:
        status, currency, minor = told.results[payout_id]
        payouts, amount = sums.get((status, currency), (0, 0))
        sums[status, currency] = (payouts + 1, amount + minor)
    return [Sum(*kind, *total) for kind, total in sorted(sums.items())]


async def _marks_ahead(settings: Settings, ledger: PostgresLedger, records: KafkaRecords) -> dict[str, dict[int, int]]:
    """Where the completeness readers know more than the ledger (K9): they go back to where the ledger is."""
    ahead: dict[str, dict[int, int]] = {}
    admin = connect_admin(settings)
    for topic, count in our_topics(admin, settings, INBOUND_TOPICS).items():
        marked = await records.marked(topic, range(count))
        verified = await ledger.verified_offsets(topic)
        ahead[topic] = {
            number: verified.get(number, 0) for number, offset in marked.items() if offset > verified.get(number, 0)
        }
    return ahead


def _asked_for(settings: Settings, verified: Mapping[int, int]) -> set[str]:
    """Every payout that was asked for behind the places up to which the ledger knows that it has all (K9).

    One of them may have been paid in the last second, of which neither audit nor results tell.
    """
    admin = connect_admin(settings)
    there = spans(admin, our_topics(admin, settings, [REQUEST_TOPIC]), since=None)
    to_read = [replace(span, first=max(span.first, verified.get(span.partition, 0))) for span in there]
    names = set()
    with reader(settings) as consumer, codec_for(settings) as codec:
        for record in Reading(consumer, to_read, follow=False, timeout_seconds=None).records():
            with suppress(Undecodable, UnicodeDecodeError):
                names.add(_name_of(record.key(), record.value(), codec))
    return {name for name in names if can_be_a_key(name)}


def _name_of(key: object, value: object, codec: BlockingCodec) -> str:
    """The payout of a request, by its key, else by what it says (K6). Raises Undecodable, UnicodeDecodeError."""
    if isinstance(key, bytes):
        return key.decode()
    return str(codec.decode("PayoutRequest", value if isinstance(value, bytes) else b"").record["payout_id"])


# Doing.


async def _done(settings: Settings, look: Look, operator: str, reason: str) -> Adopted | None:
    codec = _codec(settings)
    records = KafkaRecords(confluent_config(settings), settings.group)
    try:
        async with connected_ledger(settings) as ledger:
            adopted = None
            if look.plan.verdict is not Verdict.KNOWN:
                skew = settings.schedule.clock_skew_seconds
                adopted = await ledger.adoption.adopt(
                    look.plan, operator=operator, reason=reason, clock_skew_seconds=skew
                )
            # Only now: before, a request that came in again would not have been held.
            for topic, partitions in look.marks.items():
                for number, offset in partitions.items():
                    await records.mark((topic, number), offset)
            await _publish(settings, ledger, codec)
            return adopted
    finally:
        await records.close()
        await codec.close()


async def _publish(settings: Settings, ledger: PostgresLedger, codec: Codec) -> None:
    """What is sealed and not published, in order; then the mark (K1)."""
    topic = topic_name(AUDIT_TOPIC, settings.payouts_topic_prefix)
    for _ in range(PUBLISH_BATCHES_MAX):
        records = await ledger.seals.unpublished(TAIL_RECORDS)
        if not records:
            return
        producer = ConfirmedProducer(settings)
        for record in records:
            producer.send(topic, None, await codec.encode(SCHEMA, record, topic), headers_of(record))
        producer.finish()
        if producer.acknowledged < len(records):
            raise not_confirmed(producer.reason)
        await ledger.seals.published_up_to(records[-1]["sequence"])
    message("The workers publish the rest of the history.")


# Telling.


def _shown(look: Look) -> dict[str, Any]:
    plan = look.plan
    return {
        "verdict": plan.verdict.value,
        "sealed": plan.standing.head.sequence,
        "published": plan.published.head.sequence if plan.published else 0,
        "certain_until": plan.certain_at,
        "kafka_is_a_copy": plan.kafka_is_a_copy,
        "lost_lines": look.lost.lines,
        "lost_lines_of_payouts": len(look.lost.states),
        "results_the_copy_does_not_have": [_sum(total) for total in look.told],
        "lost_payouts": len(plan.lost_payouts),
        "held": [_sum(total) for total in plan.held],
        "asked_about_by_itself": [_sum(total) for total in plan.under_way],
        "identity_numbers": {"from": plan.standing.identity_position, "to": plan.identity_to},
        "read_again_from": {
            f"{topic}-{number}": offset for topic, found in look.marks.items() for number, offset in found.items()
        },
    }


def _sum(total: Sum) -> dict[str, Any]:
    return {
        "what": total.what,
        "payouts": total.payouts,
        "amount_minor": total.amount_minor,
        "currency": total.currency,
        "money": amount_text(total.amount_minor, total.currency),
    }


def _tell(look: Look, done: Adopted | None, output: Output) -> None:
    values: dict[str, Any] = {"adopted": done is not None, "verdict": look.plan.verdict.value}
    if done is not None:
        values |= {
            "sequence": done.sequence,
            "held": done.held,
            "window_from": done.window_from,
            "window_to": done.window_to,
            "identity_to": done.identity_to,
        }
    if output is Output.JSON:
        emit_object(_shown(look) | {"done": values}, output)
    else:
        print()
        emit_object(values, output)
    if done is not None:
        message(
            "Calls leave again. Check every payout held for LEDGER_RESTORED with Visa: `payouts stuck`, the runbook."
        )
