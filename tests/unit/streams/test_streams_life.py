"""Whole lives of payouts over the model ledger: intake, stages, Visa, compensation, review, sweeper."""

import asyncio
import contextlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ledger.interface import CommitUnknown, LedgerUnavailable, RowRejected
from processors.payout.events import Held, Released
from processors.payout.modes import Mode
from processors.payout.row import PayoutRow
from processors.visa.exchange import Answered, Failed, FailureCause
from processors.visa.identity import Operation
from processors.visa.requests import VisaRequest
from schemas.codec import Unencodable
from schemas.headers import header_text
from streams.away import what_is_away
from streams.visa_calls import VisaCalls
from streams.visa_rate import VisaRate
from tests.unit.streams.streams_world import (
    RECIPIENT_CARD,
    REQUESTS,
    SENDER_CARD,
    World,
    approved,
    lost_reply,
    refused,
)

PUSH, QUERY, REVERSE = Operation.PUSH_FUNDS, Operation.TRANSACTION_QUERY, Operation.REVERSE_FUNDS


async def ended(world: World, payout_id: str = "payout-0001", **changes: Any) -> PayoutRow:
    """Ask, settle, and give the row."""
    await world.ask(payout_id, **changes)
    await world.settle()
    return await world.row(payout_id)


async def confirm(world: World, **changes: Any) -> None:
    """The originator's word about the compensation of payout-0001."""
    record = {
        "compensation_id": "payout-0001.compensation",
        "payout_id": "payout-0001",
        "originator_id": "acme",
        "confirmed_at": world.now,
        "confirmation_reference": "release-1",
        "outcome": "COMPLETED",
        "note": None,
    }
    await world.produce("payout_compensation_confirmations", "CompensationConfirmation", record | changes)
    await world.settle()


async def decide(world: World, **changes: Any) -> None:
    """A reviewer's decision on payout-0001."""
    row = await world.row("payout-0001")
    record = {
        "case_id": row.review_case_id,
        "payout_id": "payout-0001",
        "decision": "APPROVE",
        "reviewer": "casey",
        "reason_code": "FALSE_POSITIVE",
        "note": None,
        "decided_at": world.now,
    }
    await world.produce("payout_review_decisions", "ReviewDecision", record | changes)
    await world.settle()


def parties(world: World, recipient: str) -> str:
    address = {"line1": "1 High Street", "city": "Leeds", "state": "CA", "postal_code": "94404", "country": "US"}
    return world.seal({"sender": {"name": "Mara Lindqvist", "address": address}, "recipient": {"name": recipient}})


# --- the good end -------------------------------------------------------------------------------------------------


async def test_a_payout_is_paid_once_and_says_so(world: World) -> None:
    """P1, P2, S2, B3: from the request to PAID, checks and screening before the push; one push, one result event."""
    row = await ended(world)
    assert row.state == "PAID"
    assert await world.life("payout-0001") == ["received", "validated", "cleared", "intent", "paid"]
    assert len(world.visa.pushes) == 1
    (result,) = await world.events("payout_results")
    assert (result["status"], result["transaction_identifier"]) == ("PAID", "587010322176105")
    assert row.announced_version == row.announce_version


async def test_the_intent_is_durable_before_bytes_leave(world: World) -> None:
    """S2, S1: identity, sealed body and lease are in the row when the call is made."""
    seen: list[PayoutRow] = []

    async def look(request: VisaRequest) -> None:
        row = await world.row("payout-0001")
        seen.append(row)
        body = json.loads(request.body or b"")
        assert row.systems_trace_audit_number == body["systemsTraceAuditNumber"]
        assert row.retrieval_reference_number == body["retrievalReferenceNumber"]

    world.visa.pause = look
    await ended(world)
    (row,) = seen
    assert (row.state, row.attempts, row.lease_owner is not None) == ("SUBMITTING", 1, True)
    assert row.sealed_body is not None
    assert RECIPIENT_CARD.encode() not in row.sealed_body, "sealed (P6)"


async def test_nothing_that_is_kept_or_published_holds_a_card_number_or_a_name(world: World) -> None:
    """P6: rows, history, topics."""
    await ended(world, funding=world.card_pull("payout-0001"))
    kept = [repr(row) for row in world.rows()]
    kept += [repr(entry) for entry in await world.model.history("payout-0001")]
    for topic, records in world.broker.topics.items():
        kept += [repr((record.key, record.value, record.headers)) for record in records if topic != REQUESTS]
    assert len(kept) > 5
    for secret in (RECIPIENT_CARD, SENDER_CARD, "Lindqvist", "Okafor"):
        assert not [text[:80] for text in kept if secret in text]


async def test_every_record_delivered_again_changes_nothing_and_pays_nothing(world: World) -> None:
    """K1, K3: redelivery finds the state advanced and publishes at most the same event again."""
    before = await ended(world)
    records = [record for topic in world.worker.handlers for record in world.broker.topics[topic]]
    for record in records + records[::-1]:
        await world.deliver(record)
    await world.settle()
    after = await world.row("payout-0001")
    assert after == before
    assert len(world.visa.calls(PUSH)) == 1
    assert len(set(world.event_ids("payout_results"))) == 1


# --- unpaid ends and compensation ---------------------------------------------------------------------------------


async def test_a_declined_payout_is_compensated_by_its_originators_word(world: World) -> None:
    """C1, C2, B3: DECLINED → required → the originator confirms → COMPENSATED, each announced once."""
    world.visa.script[PUSH] = [lambda _: approved("05")]
    row = await ended(world)
    assert (row.state, row.compensation, row.compensation_executor) == ("DECLINED", "REQUIRED", "ORIGINATOR")
    (required,) = await world.events("payout_failed_requires_compensation")
    assert (required["executor"], required["action"]) == ("ORIGINATOR", "RELEASE_HOLD")
    assert not world.visa.calls(REVERSE), "never both executors (C2)"
    await confirm(world)
    await confirm(world)
    row = await world.row("payout-0001")
    assert (row.compensation, row.compensation_reference) == ("COMPENSATED", "release-1")
    (result,) = await world.events("payout_compensation_results")
    assert result["confirmation_reference"] == "release-1"


async def test_a_refused_compensation_waits_for_a_person(world: World) -> None:
    """C2: REFUSED is MANUAL, announced."""
    world.visa.script[PUSH] = [lambda _: approved("05")]
    await ended(world)
    await confirm(world, outcome="REFUSED")
    row = await world.row("payout-0001")
    assert (row.compensation, row.compensation_reason_code) == ("MANUAL", "ORIGINATOR_REFUSED")


@pytest.mark.parametrize(
    ("changes", "dead_letters"),
    [
        ({"compensation_id": "payout-0002.compensation"}, 0),
        ({"originator_id": "somebody-else"}, 1),
        ({"outcome": "UNSPECIFIED"}, 1),
    ],
)
async def test_a_confirmation_that_is_not_the_originators_ends_nothing(
    world: World, changes: dict[str, Any], dead_letters: int
) -> None:
    """C2: only the originator's own word about this compensation counts."""
    world.visa.script[PUSH] = [lambda _: approved("05")]
    await ended(world)
    await confirm(world, **changes)
    assert (await world.row("payout-0001")).compensation == "REQUIRED"
    assert len(world.broker.topics["payout_dead_letters"]) == dead_letters


async def test_a_paid_payout_is_never_compensated(world: World) -> None:
    """P4: a confirmation for a paid payout does nothing."""
    await ended(world)
    await confirm(world)
    row = await world.row("payout-0001")
    assert (row.state, row.compensation) == ("PAID", "NONE")


async def test_a_declined_card_funded_payout_is_reversed_by_us_once(world: World) -> None:
    """C1, C2, C3: the pull is given back; a redelivered event does not give it back twice."""
    world.visa.script[PUSH] = [lambda _: approved("05")]
    row = await ended(world, funding=world.card_pull("payout-0001"))
    assert (row.state, row.compensation) == ("DECLINED", "COMPENSATED")
    for record in list(world.broker.topics["payout_failed_requires_compensation"]):
        await world.deliver(record)
    await confirm(world)
    assert len(world.visa.reversals) == len(world.visa.calls(REVERSE)) == 1
    body = world.visa.reversals[0]
    assert (body["systemsTraceAuditNumber"], body["amount"]) == (451018, 25)
    (result,) = await world.events("payout_compensation_results")
    assert (result["status"], result["executor"]) == ("COMPENSATED", "PROCESSOR")


async def test_a_lost_reversal_answer_is_proven_by_a_reversal_row_and_never_sent_again(world: World) -> None:
    """C3, C4: asked about, not repeated."""
    world.visa.script[PUSH] = [lambda _: approved("05")]
    world.visa.script[REVERSE] = [world.visa.silent_after_effect]
    row = await ended(world, funding=world.card_pull("payout-0001"))
    assert row.compensation == "COMPENSATED"
    assert len(world.visa.calls(REVERSE)) == 1
    assert (await world.life("payout-0001"))[-2:] == ["reversal_query_begun", "compensated"]


async def test_a_reversal_that_nobody_knows_becomes_a_persons(world: World) -> None:
    """S3, C4: a reversal has no duplicate key: query, then an operator."""
    world.visa.script[PUSH] = [lambda _: approved("05")]
    world.visa.script[REVERSE] = [lambda _: lost_reply()]
    row = await ended(world, funding=world.card_pull("payout-0001"))
    assert row.compensation == "MANUAL"
    assert len(world.visa.calls(REVERSE)) == 1


async def test_a_refused_reversal_is_tried_again_when_it_is_due(world: World) -> None:
    """S7, C4: a 429 is definite for its attempt; the same body is sent again."""
    world.visa.script[PUSH] = [lambda _: approved("05")]
    world.visa.script[REVERSE] = [lambda _: refused(429, retry_after="5")]
    row = await ended(world, funding=world.card_pull("payout-0001"))
    first, second = world.visa.calls(REVERSE)
    assert row.compensation == "COMPENSATED"
    assert first.body == second.body
    assert row.compensation_last_intent_at is not None
    assert row.compensation_first_intent_at is not None
    assert row.compensation_last_intent_at - row.compensation_first_intent_at >= timedelta(seconds=5)


async def test_an_invalid_request_ends_rejected_with_a_reason_and_its_funding_is_owed_back(world: World) -> None:
    """K7, B3, F-09: a payout with an end, never a dead letter; a guard that refuses makes no call; the money is owed"""
    row = await ended(world, amount={"amount_minor": -1, "currency": "USD"})
    assert (row.state, row.compensation) == ("REJECTED", "REQUIRED")
    assert row.reason_code
    assert not world.broker.topics["payout_dead_letters"]
    assert not world.visa.requests


@pytest.mark.parametrize(
    "changes",
    [
        {"originator_id": ""},
        {"originator_id": "a\0b"},
        {"correlation_id": "c" * 4000},
        {"correlation_id": RECIPIENT_CARD},
        {"amount": {"amount_minor": 2**63 - 1, "currency": "\0" * 3}},
        {"corridor": {"source_country": "", "target_country": "", "source_currency": "", "target_currency": ""}},
        {"metadata": {"\0": "\0"}},
        {"personal_data": "not a jwe"},
        {"personal_data": None},
    ],
    ids=lambda changes: next(iter(changes)) if isinstance(changes, dict) else None,
)
async def test_whatever_decodes_becomes_a_payout_that_ends(world: World, changes: dict[str, Any]) -> None:
    """K7, L5: invalid content is a REJECTED payout whose captured funding is owed back, not a dead letter."""
    row = await ended(world, **changes)
    assert (row.state, row.compensation) == ("REJECTED", "REQUIRED")
    assert [event["status"] for event in await world.events("payout_results")] == ["REJECTED"]
    assert not world.broker.topics["payout_dead_letters"]


@pytest.mark.parametrize("correlation_id", ["", "órdenes 17", "order 17", "c" * 129])
async def test_a_correlation_id_that_is_no_header_does_not_fail_a_payout(world: World, correlation_id: str) -> None:
    """K7: what validation lets pass can be submitted; what cannot be submitted is refused by validation."""
    row = await ended(world, correlation_id=correlation_id)
    assert row.state in ("PAID", "REJECTED"), row.reason_code


async def test_expired_before_its_first_intent_is_expired_and_makes_no_call(world: World) -> None:
    """S6: EXPIRED needs that no attempt is ambiguous."""
    await world.ask("payout-0001", expires_at=world.now + timedelta(seconds=1))
    for topic in (REQUESTS, "payout_validated"):
        await world.deliver(world.broker.topics[topic][0])
        world.next_offset[topic] = 1
    world.advance(2.0)
    await world.settle()
    row = await world.row("payout-0001")
    assert (row.state, row.compensation) == ("EXPIRED", "REQUIRED")
    assert not world.visa.requests


# --- Visa that refuses, is slow, or is silent ---------------------------------------------------------------------


async def test_a_429_is_not_tried_again_before_it_is_due_and_spends_nothing(world: World) -> None:
    """S7: the schedule in the ledger is the retry."""
    world.visa.script[PUSH] = [lambda _: refused(429, retry_after="30")]
    await world.ask("payout-0001")
    started = world.now
    await world.settle(seconds=29.0)
    row = await world.row("payout-0001")
    assert (row.state, row.attempts, row.systemic_refusals, row.ambiguous) == ("CLEARED", 1, 1, False)
    assert len(world.visa.calls(PUSH)) == 1
    for topic in world.worker.handlers:
        for record in list(world.broker.topics[topic]):
            await world.deliver(record)
    assert len(world.visa.calls(PUSH)) == 1, "no redelivered event is a reason to try early"
    await world.settle()
    row = await world.row("payout-0001")
    assert row.state == "PAID"
    assert row.last_intent_at is not None
    assert row.last_intent_at - started >= timedelta(seconds=30)
    first, second = world.visa.calls(PUSH)
    assert (first.body, first.client_transaction_id) == (second.body, second.client_transaction_id)


async def test_a_refused_payout_is_tried_again_while_its_stage_is_busy(world: World) -> None:
    """P1, K4: lag of payout_cleared does not explain why a refused payout waits; only payout_retry can drive it."""
    world.visa.script[PUSH] = [lambda _: refused(429)]
    world.lag["payout_cleared"] = 3
    row = await ended(world)
    assert row.state == "PAID"


async def test_a_released_payout_is_driven_while_its_stage_is_busy(world: World) -> None:
    """P1, L12: its stage event was handled while it was held; under steady traffic a little lag never ends."""
    await world.ask("payout-0001")
    await world.deliver(world.broker.topics[REQUESTS][0])
    world.next_offset[REQUESTS] = 1
    held = await world.worker.driver.apply(await world.row("payout-0001"), Held("TEST"))
    await world.settle()
    assert (await world.row("payout-0001")).state == "VALIDATED"
    world.lag = {REQUESTS: 3, "payout_validated": 3, "payout_cleared": 3}
    await world.worker.driver.apply(await world.row(held.payout_id), Released("casey"))
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"


async def test_a_stage_with_a_backlog_is_not_driven_from_the_side(world: World) -> None:
    """K4: silent while the stage's own lag explains the age."""
    await world.ask("payout-0001")
    await world.deliver(world.broker.topics[REQUESTS][0])
    await world.worker.announcer.mark_now()
    world.lag["payout_validated"] = 100_000
    world.advance(world.schedule.stage_patience_seconds + 1)
    await world.worker.sweeper.sweep()
    assert not world.broker.topics["payout_retry"]


async def test_retries_do_not_pile_up_behind_a_retry_stage_that_does_not_move(world: World) -> None:
    """K4: one outstanding a payout and a cap overall: with a backlog of retries more of them help nobody."""
    world.visa.script[PUSH] = [lambda _: lost_reply()]
    await world.ask("payout-0001")
    for topic in (REQUESTS, "payout_validated", "payout_cleared"):
        await world.deliver(world.broker.topics[topic][0])
    await world.worker.announcer.mark_now()
    assert (await world.row("payout-0001")).state == "UNKNOWN"
    for _ in range(20):
        world.advance(world.schedule.lease_seconds + world.schedule.clock_skew_seconds + 1)
        await world.worker.sweeper.sweep()
        world.lag["payout_retry"] = 10_000 + len(world.broker.topics["payout_retry"])
    assert len(world.broker.topics["payout_retry"]) <= 2


async def test_a_lost_reply_is_unknown_and_the_query_finds_it(world: World) -> None:
    """P3, S3, S4: effect, silence, UNKNOWN, query, PAID; nothing is sent twice."""
    world.visa.script[PUSH] = [world.visa.silent_after_effect]
    row = await ended(world)
    assert row.state == "PAID"
    life = await world.life("payout-0001")
    assert life[3:] == ["intent", "unknown", "query_begun", "paid"]
    assert len(world.visa.calls(PUSH)) == 1
    statuses = [event["status"] for event in await world.events("payout_results")]
    assert statuses == ["PAID"], "unknown is never announced as an end"


async def test_a_payout_that_visa_does_not_know_is_sent_again_the_same_after_the_horizon(world: World) -> None:
    """S3, P3: query first, wait out the horizon, then the same identity and byte-identical plaintext."""
    world.visa.script[PUSH] = [lambda _: lost_reply()]
    row = await ended(world)
    assert row.state == "PAID"
    first, second = world.visa.calls(PUSH)
    assert first.body == second.body
    assert first.client_transaction_id == second.client_transaction_id
    assert row.first_intent_at is not None
    assert row.last_intent_at is not None
    waited = (row.last_intent_at - row.first_intent_at).total_seconds()
    assert waited >= world.schedule.in_flight_horizon_seconds + world.schedule.clock_skew_seconds
    life = await world.life("payout-0001")
    assert life.count("intent") == 2
    assert life[life.index("not_found") - 1] == "query_begun", "asked right before it is sent again"
    assert len(world.visa.pushes) == 1


async def test_a_202_is_asked_about_until_it_completes(world: World) -> None:
    """S8, P3: PENDING is not PAID."""
    accepted = Answered(202, {}, {"statusIdentifier": "status-1"}, None, None, 0.01)
    world.visa.script[PUSH] = [lambda request: (world.visa.push(request), accepted)[1]]
    world.visa.script[Operation.PUSH_FUNDS_STATUS] = [lambda _: accepted, lambda _: approved()]
    row = await ended(world)
    assert row.state == "PAID"
    life = await world.life("payout-0001")
    assert life[3:] == ["intent", "pending", "status_begun", "still_pending", "status_begun", "paid"]


async def test_nothing_is_sent_again_after_23_hours(world: World) -> None:
    """P3, S3: past the resend limit an operator decides."""
    world.visa.script[PUSH] = [lambda _: lost_reply()]
    world.visa.script[QUERY] = [lambda _: refused(503)] * 3
    await world.ask("payout-0001")
    await world.settle(seconds=5.0)
    world.advance(world.schedule.resend_limit_seconds)
    await world.settle()
    row = await world.row("payout-0001")
    assert (row.state, row.held, row.hold_reason) == ("UNKNOWN", True, "UNKNOWN_PAST_RESEND_LIMIT")
    assert len(world.visa.calls(PUSH)) == 1
    assert not await world.events("payout_results")
    assert not world.broker.topics["payout_failed_requires_compensation"]


async def test_credentials_that_are_refused_stop_the_stage_and_spend_nothing(world: World) -> None:
    """K5, S7: 401 fails every payout alike; the stage waits, then one payout tries again."""
    world.visa.script[PUSH] = [lambda _: refused(401)]
    await world.ask("payout-0001")
    await world.deliver_all()
    assert world.worker.calls.pauses.reasons == ("visa:CREDENTIALS",)
    row = await world.row("payout-0001")
    assert (row.state, row.ambiguous, row.systemic_refusals, row.own_failures) == ("CLEARED", False, 1, 0)
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"
    assert world.worker.calls.pauses.reasons == ()


async def test_a_client_certificate_that_is_refused_late_stops_the_stage_too(world: World) -> None:
    """S4: seen after bytes were sent (TLS 1.3) it is ambiguous for the payout and systemic for the stage."""
    world.visa.script[PUSH] = [lambda _: Failed(True, FailureCause.CLIENT_CERTIFICATE_REFUSED)]
    await world.ask("payout-0001")
    await world.deliver_all()
    assert (await world.row("payout-0001")).state == "UNKNOWN"
    assert world.worker.calls.pauses.reasons, "every further payout would become UNKNOWN as well"


async def test_a_wrong_request_fails_for_good_when_no_attempt_is_ambiguous(world: World) -> None:
    """S4, S6: 400 is definite; the funding is owed back."""
    world.visa.script[PUSH] = [lambda _: refused(400)]
    row = await ended(world)
    assert (row.state, row.compensation) == ("FAILED", "REQUIRED")


async def test_a_wrong_request_after_an_ambiguous_attempt_fails_nothing(world: World) -> None:
    """S6, P4: refused while unknown stays UNKNOWN: the first attempt may have been paid."""
    world.visa.script[PUSH] = [lambda _: lost_reply(), lambda _: refused(400)]
    await world.ask("payout-0001")
    times = world.schedule
    settled_seconds = times.lease_seconds + times.in_flight_horizon_seconds + times.clock_skew_seconds
    await world.settle(seconds=settled_seconds + times.inquiry_max_seconds)
    row = await world.row("payout-0001")
    assert len(world.visa.calls(PUSH)) == 2
    assert (row.state, row.ambiguous, row.compensation) == ("UNKNOWN", True, "NONE")
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"


# --- who may call -------------------------------------------------------------------------------------------------


async def test_two_workers_with_the_same_event_make_one_push(world: World) -> None:
    """P2, L3: the lease belongs to one; the other finds it LOST or LEASED."""
    await world.ask("payout-0001")
    for topic in (REQUESTS, "payout_validated"):
        await world.deliver(world.broker.topics[topic][0])
    other = world.start_worker()

    async def slow(_: VisaRequest) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    world.visa.pause = slow
    cleared = world.broker.topics["payout_cleared"][0]
    await asyncio.gather(*(world.deliver(cleared, worker) for worker in (world.worker, other) for _ in range(3)))
    assert len(world.visa.calls(PUSH)) == 1
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"
    assert len(world.visa.pushes) == 1


async def test_a_worker_that_lost_its_lease_pays_nothing_twice(world: World) -> None:
    """L3, S3: frozen between intent and bytes; another worker asks, waits and sends; then the first one wakes up."""
    frozen, thaw = asyncio.Event(), asyncio.Event()

    async def freeze(request: VisaRequest) -> None:
        if request.operation is PUSH and not frozen.is_set():
            frozen.set()
            await thaw.wait()

    await world.ask("payout-0001")
    for topic in (REQUESTS, "payout_validated"):
        await world.deliver(world.broker.topics[topic][0])
        world.next_offset[topic] = 1
    world.visa.pause = freeze
    first = asyncio.create_task(world.deliver(world.broker.topics["payout_cleared"][0]))
    await frozen.wait()
    world.next_offset["payout_cleared"] = 1
    world.worker = world.start_worker()
    await world.settle()
    row = await world.row("payout-0001")
    assert (row.state, row.attempts) == ("PAID", 2)
    thaw.set()
    await first
    assert len(world.visa.pushes) == 1, "Visa's duplicate key caught what the frozen worker still sent"
    assert (await world.row("payout-0001")).state == "PAID"
    bodies = {request.body for request in world.visa.calls(PUSH)}
    assert len(bodies) == 1


async def test_while_halted_nothing_calls_out_and_afterwards_everything_goes_on(world: World) -> None:
    """L9: neither a stage event nor a sweep makes a call; no event is lost by it."""
    await world.model.set_mode(Mode.HALTED, "casey", "test", 0.0)
    await world.ask("payout-0001")
    await world.settle(seconds=60.0)
    row = await world.row("payout-0001")
    assert (row.state, row.attempts) == ("CLEARED", 0)
    assert not world.visa.requests
    assert not world.broker.topics["payout_retry"], "silent while paused (K4)"
    await world.model.set_mode(Mode.NORMAL, "casey", "test", 0.0)
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"
    assert len(world.visa.pushes) == 1


async def test_a_held_payout_makes_no_call_until_it_is_released(world: World) -> None:
    """L12: only an operator releases."""
    await world.ask("payout-0001")
    for topic in (REQUESTS, "payout_validated"):
        await world.deliver(world.broker.topics[topic][0])
        world.next_offset[topic] = 1
    await world.worker.driver.apply(await world.row("payout-0001"), Held("OPERATOR"))
    await world.settle()
    assert not world.visa.requests
    assert (await world.row("payout-0001")).state == "CLEARED"
    await world.worker.driver.apply(await world.row("payout-0001"), Released("casey"))
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"


@pytest.mark.parametrize("applied", [True, False])
async def test_an_intent_whose_commit_is_unknown_is_never_sent_in_that_attempt(world: World, applied: bool) -> None:
    """L4, S2: unknown means read again; the call leaves only after an acknowledged intent."""
    name = "ledger.begin:after" if applied else "ledger.begin:before"
    world.boundary.fail_once(name, CommitUnknown("not confirmed"))
    await world.ask("payout-0001")
    with pytest.raises(CommitUnknown):
        await world.deliver_all()
    assert not world.visa.requests
    await world.settle()
    row = await world.row("payout-0001")
    assert row.state == "PAID"
    assert len(world.visa.pushes) == 1
    if applied:
        assert (await world.life("payout-0001"))[4] == "answer_lost", "the intent stands, so it counts as sent"


async def test_an_answer_is_written_however_long_the_database_is_away(world: World) -> None:
    """L2, S2: evidence is not thrown away because the database has a bad moment."""
    left = [5]

    def away(name: str) -> BaseException | None:
        if name == "ledger.commit:before" and world.visa.requests and left[0]:
            left[0] -= 1
            return LedgerUnavailable("away")
        return None

    world.boundary.fail = away
    row = await ended(world)
    assert (row.state, left) == ("PAID", [0])
    assert await world.life("payout-0001") == ["received", "validated", "cleared", "intent", "paid"]


async def test_a_worker_without_visa_leaves_calls_to_others(world: World) -> None:
    """Design 6: any worker runs any subset of agents."""
    world.worker.driver._calls = None
    await world.ask("payout-0001")
    await world.deliver_all()
    row = await world.row("payout-0001")
    assert (row.state, row.attempts) == ("CLEARED", 0)
    world.worker = world.start_worker()
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"


# --- review -------------------------------------------------------------------------------------------------------


async def test_a_possible_match_waits_and_is_paid_when_the_reviewer_approves(world: World) -> None:
    """R1, P7: the decision names its case; the evidence is in the row."""
    row = await ended(world, personal_data=parties(world, "Viktor Drakenfels Senior"))
    assert row.state == "IN_REVIEW"
    assert row.list_version
    (case,) = await world.events("payout_reviews")
    assert case["case_id"] == row.review_case_id
    assert not world.visa.requests
    await decide(world, case_id="payout-0001.999")
    assert (await world.row("payout-0001")).state == "IN_REVIEW"
    await decide(world)
    row = await world.row("payout-0001")
    assert (row.state, row.reviewer) == ("PAID", "casey")


async def test_a_reviewers_refusal_denies_and_a_replayed_decision_does_nothing(world: World) -> None:
    """R1: once; afterwards the case is closed."""
    await ended(world, personal_data=parties(world, "Viktor Drakenfels Senior"))
    await decide(world, decision="REJECT", reason_code="TRUE_MATCH")
    row = await world.row("payout-0001")
    assert (row.state, row.compensation) == ("DENIED", "REQUIRED")
    await decide(world, decision="APPROVE")
    assert (await world.row("payout-0001")).version == row.version
    assert not world.visa.requests


@pytest.mark.parametrize("changes", [{"decision": "UNSPECIFIED"}, {"reviewer": "  "}])
async def test_a_decision_that_decides_nothing_is_set_aside(world: World, changes: dict[str, Any]) -> None:
    """R1, K6: an unknown word is not an approval."""
    await ended(world, personal_data=parties(world, "Viktor Drakenfels Senior"))
    await decide(world, **changes)
    assert (await world.row("payout-0001")).state == "IN_REVIEW"
    assert len(world.broker.topics["payout_dead_letters"]) == 1


async def test_a_reviewers_words_are_kept_without_card_numbers(world: World) -> None:
    """P6: free text from outside."""
    await ended(world, personal_data=parties(world, "Viktor Drakenfels Senior"))
    await decide(world, reviewer=f"casey {RECIPIENT_CARD}", reason_code="a\0b")
    row = await world.row("payout-0001")
    assert (row.state, row.reviewer) == ("PAID", "[withheld]")


# --- repeats, refusals, dead letters ------------------------------------------------------------------------------


async def test_a_repeated_request_is_answered_again_with_the_same_event(world: World) -> None:
    """P5, K3, B3, B6: other bytes (a fresh encryption), same content, same ce_id, no second push."""
    await ended(world)
    await ended(world, correlation_id="another", requested_at=world.now + timedelta(seconds=1), metadata={"try": "2"})
    assert len(set(world.event_ids("payout_results"))) == 1
    assert len(world.event_ids("payout_results")) == 2
    assert len(world.visa.pushes) == 1
    assert [record.disposition for record in world.model.intake()] == ["REPEAT"]
    assert not world.broker.topics["payout_refusals"]


async def test_other_content_under_a_known_id_is_refused_and_touches_nothing(world: World) -> None:
    """P5, K7: a refused request is not a failed payout; the same event again has the same ce_id."""
    before = await ended(world)
    await ended(world, amount={"amount_minor": 2501, "currency": "USD"})
    await world.deliver(world.broker.topics[REQUESTS][1])
    assert await world.row("payout-0001") == before
    refusals = await world.events("payout_refusals")
    assert [event["source_offset"] for event in refusals] == [1, 1]
    assert len(set(world.event_ids("payout_refusals"))) == 1
    assert len(world.broker.topics["payout_results"]) == 1
    assert not world.broker.topics["payout_failed_requires_compensation"]
    assert [record.disposition for record in world.model.intake()] == ["REFUSED"]


async def test_a_repeat_at_the_same_place_of_a_topic_made_anew_is_a_repeat(world: World) -> None:
    """P5, K7, K8: it is not the record that made the row, whatever its offset; other content is refused there, too."""
    await ended(world)
    (first,) = world.broker.topics[REQUESTS]
    results = len(world.broker.topics["payout_results"])
    again = replace(first, timestamp=first.timestamp + timedelta(hours=1))
    await world.deliver(first)
    assert (len(world.broker.topics["payout_results"]), world.model.intake()) == (results, [])
    await world.deliver(again)
    assert len(world.broker.topics["payout_results"]) == results + 1
    assert [record.disposition for record in world.model.intake()] == ["REPEAT"]
    other = world.request("payout-0001", amount={"amount_minor": 2501, "currency": "USD"})
    await world.deliver(replace(again, value=await world.codec.encode("PayoutRequest", other)))
    assert len(world.broker.topics["payout_refusals"]) == 1
    assert len(world.visa.calls(PUSH)) == 1


async def test_a_receipt_belongs_to_the_first_payout_that_claims_it(world: World) -> None:
    """L7: the second one is rejected and never compensated: the money is the first one's."""
    await ended(world, "payout-0001", funding=world.internal("shared"))
    row = await ended(world, "payout-0002", funding=world.internal("shared"))
    assert (row.state, row.receipt_owned, row.compensation) == ("REJECTED", False, "NONE")
    assert len(world.visa.pushes) == 1


async def dead_letter(world: World) -> dict[str, str | None]:
    """Headers of the one dead letter."""
    (record,) = world.broker.topics["payout_dead_letters"]
    return {name: header_text(record.headers, name) for name, _ in record.headers}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"\x07this is no Avro 4957030420210462", "NO_MAGIC_BYTE"),
        (b"\x00\x7f\xff\xff\x01" + b"?" * 40, "UNKNOWN_SCHEMA_ID"),
        (b"\x00\x7f\xff\xff\x01" + b"?" * (300 * 1024), "OVER_LIMIT"),
        (None, "NO_MAGIC_BYTE"),
    ],
)
async def test_what_cannot_be_decoded_is_set_aside_encrypted(world: World, value: bytes | None, code: str) -> None:
    """K6: source, SHA-256 and the codec's own stable code; the bytes only for our key; the partition goes on."""
    world.broker.put(REQUESTS, RECIPIENT_CARD.encode(), value)
    await world.ask("payout-0001")
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"
    headers = await dead_letter(world)
    (record,) = world.broker.topics["payout_dead_letters"]
    assert RECIPIENT_CARD not in repr(record)
    assert record.key == b"payout_requests-0-0"
    assert headers["truncated"] == ("true" if value and len(value) > 256 * 1024 else "false")
    assert [entry.disposition for entry in world.model.intake()] == ["DEAD_LETTER"]
    assert headers["reason_code"] == code, "stable, as schemas.errors promises for headers and metrics"


async def test_a_key_that_is_not_the_payout_id_is_set_aside_and_a_missing_key_is_no_error(world: World) -> None:
    """K6."""
    value = (await world.ask("payout-0001")).value
    world.broker.topics[REQUESTS].clear()
    world.broker.put(REQUESTS, b"payout-0009", value)
    await world.settle()
    assert (await dead_letter(world))["reason_code"] == "KEY_IS_NOT_PAYOUT_ID"
    assert not world.rows()
    world.broker.put(REQUESTS, None, value)
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"


@pytest.mark.parametrize("payout_id", ["", "x" * 65, "päyout-1", "a\0b", RECIPIENT_CARD])
async def test_a_payout_id_that_may_not_become_a_key_is_set_aside(world: World, payout_id: str) -> None:
    """K6, P6."""
    await world.ask(payout_id)
    await world.settle()
    assert (await dead_letter(world))["reason_code"] == "PAYOUT_ID_UNUSABLE"
    assert not world.rows()


async def test_a_short_payout_id_is_a_rejected_payout(world: World) -> None:
    """K7: decodable and invalid."""
    row = await ended(world, "short")
    assert (row.state, row.reason_code) == ("REJECTED", "PAYOUT_ID_INVALID")


async def test_a_stage_event_of_an_unknown_payout_or_with_a_foreign_key_is_set_aside(world: World) -> None:
    """K6: nothing is done on the word of a stray event."""
    record = {"payout_id": "payout-0404", "version": 1, "reason": "DUE", "requested_at": world.now}
    await world.produce("payout_retry", "PayoutRetry", record | {"correlation_id": "c"})
    await world.produce("payout_retry", "PayoutRetry", record | {"correlation_id": "c"}, key="payout-0405")
    await world.settle()
    codes = [header_text(letter.headers, "reason_code") for letter in world.broker.topics["payout_dead_letters"]]
    assert codes == ["PAYOUT_NOT_KNOWN", "KEY_IS_NOT_PAYOUT_ID"]


async def test_a_payout_whose_handler_fails_is_held_and_set_aside(world: World) -> None:
    """P8, L12: a bug ends as a hold that a person sees, never as a call."""
    await world.ask("payout-0001")
    await world.deliver(world.broker.topics[REQUESTS][0])
    record = world.broker.topics["payout_validated"][0]
    await world.worker.stage_handlers.on_bug(record, ZeroDivisionError("Mara Lindqvist"))
    row = await world.row("payout-0001")
    assert (row.held, row.hold_reason) == (True, "PROCESSING_FAILED:ZeroDivisionError")
    assert "Lindqvist" not in repr(world.broker.topics["payout_dead_letters"])
    await world.settle()
    assert not world.visa.requests


async def test_a_reversal_whose_handler_fails_is_seen_by_a_person(world: World) -> None:
    """P1, P8: an ended payout whose compensation cannot be made must not be retried for ever, unseen."""
    world.visa.script[PUSH] = [lambda _: approved("05")]
    await world.ask("payout-0001", funding=world.card_pull("payout-0001"))
    for topic in (REQUESTS, "payout_validated", "payout_cleared"):
        await world.deliver(world.broker.topics[topic][0])
    record = world.broker.topics["payout_failed_requires_compensation"][0]
    await world.worker.stage_handlers.on_bug(record, ZeroDivisionError())
    row = await world.row("payout-0001")
    assert row.held or row.compensation == "MANUAL"


async def test_an_event_that_we_read_is_not_published_again_because_its_mark_is_late(world: World) -> None:
    """K2: the compensate agent reads its own topic; until the mark is written it must not answer with the same event.

    Otherwise each event breeds the next one for as long as the ledger is slow to take the mark.
    """
    world.visa.script[PUSH] = [lambda _: approved("05")]
    await world.ask("payout-0001")
    await world.deliver_all(mark=False)
    assert len(world.broker.topics["payout_failed_requires_compensation"]) == 1
    assert len(world.broker.topics["payout_results"]) == 1


async def test_a_stage_event_that_cannot_be_acted_on_is_not_published_again(world: World) -> None:
    """K2: the same for a payout that is cleared while calls are halted, before its mark is written."""
    await world.model.set_mode(Mode.HALTED, "casey", "test", 0.0)
    await world.ask("payout-0001")
    await world.deliver_all(mark=False)
    assert len(world.broker.topics["payout_cleared"]) == 1


# --- the sweeper --------------------------------------------------------------------------------------------------


async def test_one_row_that_cannot_be_announced_does_not_stop_the_sweep(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: one bad row must not keep every due payout from being driven."""
    world.visa.script[PUSH] = [lambda _: approved(), lambda _: lost_reply()]
    await world.ask("payout-0001")
    await world.deliver_all()
    await world.ask("payout-0002")
    await world.deliver_all()
    await world.worker.announcer.mark_now()
    await world.put_row(await world.row("payout-0001"), announced_version=0)
    announce = world.worker.announcer.announce

    async def refuse(row: PayoutRow, **named: Any) -> None:
        if row.payout_id == "payout-0001":
            raise Unencodable("reason", "is something that no event can say")
        await announce(row, **named)

    monkeypatch.setattr(world.worker.announcer, "announce", refuse)
    world.advance(30.0)
    with contextlib.suppress(Unencodable):
        await world.worker.sweeper.sweep()
    assert [event["payout_id"] for event in await world.events("payout_retry")] == ["payout-0002"]


async def test_the_sweeper_does_not_count_the_whole_table_in_every_pass(world: World) -> None:
    """`Ledger.counts` reads every row: for people and slow gauges; the sweeper runs twice a second in every worker."""
    for _ in range(20):
        await world.worker.sweeper.sweep()
    assert world.boundary.passed.count("ledger.counts:after") <= 2


async def test_the_sweeper_goes_on_after_any_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: it is the last resort of every payout, so nothing may end it."""
    monkeypatch.setattr("streams.sweeper.SWEEP_EVERY_SECONDS", 0.0)
    failures: list[BaseException] = [LedgerUnavailable("away"), ZeroDivisionError("a bug"), RowRejected("a row")]
    swept = asyncio.Event()

    async def due(*_: Any) -> list[Any]:
        if failures:
            raise failures.pop()
        swept.set()
        return []

    monkeypatch.setattr(world.model, "due", due)
    task = asyncio.create_task(world.worker.sweeper.run_forever())
    await asyncio.wait_for(swept.wait(), 5.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_retry_event_drives_only_the_version_that_was_due(world: World) -> None:
    """K4: a newer row has a newer schedule."""
    world.visa.script[PUSH] = [lambda _: refused(429, retry_after="60")]
    await world.ask("payout-0001")
    await world.deliver_all()
    row = await world.row("payout-0001")
    record = {"payout_id": "payout-0001", "reason": "DUE", "requested_at": world.now, "correlation_id": "c"}
    for version in range(1, row.version):
        await world.produce("payout_retry", "PayoutRetry", record | {"version": version})
    await world.deliver_all()
    assert len(world.visa.calls(PUSH)) == 1
    assert await world.row("payout-0001") == row


def test_what_is_away_has_a_name_and_what_is_a_records_own_has_none() -> None:
    """K5, P8: the two families must not be mixed up."""
    assert what_is_away(LedgerUnavailable("x")) == what_is_away(CommitUnknown("x")) == "database"
    assert what_is_away(RowRejected("x")) is None
    assert what_is_away(ValueError("x")) is None


async def test_permits_bound_the_calls_in_flight(world: World) -> None:
    """S7: the permit is taken before the lease, so nobody holds a lease while he waits for a permit."""
    calls: VisaCalls = world.worker.calls
    at_once = most = 0

    async def count(request: VisaRequest) -> None:
        nonlocal at_once, most
        if request.operation is PUSH:
            at_once += 1
            leased = sum(row.lease_owner is not None for row in world.rows())
            most = max(most, at_once, leased)
            await asyncio.sleep(0)
            at_once -= 1

    world.visa.pause = count
    calls.rate = VisaRate(calls_max=2, metrics=world.worker.metrics)
    for number in range(6):
        await world.ask(f"payout-000{number}")
    for topic in (REQUESTS, "payout_validated", "payout_cleared"):
        await asyncio.gather(*(world.deliver(record) for record in world.broker.topics[topic]))
    assert most == 2
    assert len(world.visa.pushes) == 6
