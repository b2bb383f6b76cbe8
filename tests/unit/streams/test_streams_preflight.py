"""Questions before the first intent through the product's own agents: B3, B6, B8, F-08, S1-30, L9, S1, S3, S7."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from processors.payout.events import CallKind
from processors.payout.modes import Mode
from processors.visa.exchange import Answered, BodyProblem, Failed, FailureCause
from processors.visa.identity import PREFLIGHT_QUESTIONS, Operation
from processors.visa.requests import VisaRequest
from schemas.sender_reference import sender_reference
from streams.keys import Keys
from tests.unit.streams.streams_world import RECIPIENT_CARD, Behaviour, World, lost_reply, refused

NAME = "payout-0001"
RESULTS = "payout_results"
COMPENSATIONS = "payout_failed_requires_compensation"
CARD_QUESTIONS = [Operation.CARD_ATTRIBUTES, Operation.CARD_VALIDATION, Operation.RATE_QUOTE]


def asked(world: World) -> list[Operation]:
    """The questions before payouts, oldest first."""
    return [request.operation for request in world.visa.requests if request.operation in PREFLIGHT_QUESTIONS]


def moved(world: World) -> list[VisaRequest]:
    """The calls that move money to a recipient."""
    return world.visa.calls(Operation.PUSH_FUNDS) + world.visa.calls(Operation.SEND_PAYOUT)


def body(request: VisaRequest) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(request.body or b"")
    return document


def no_attributes(flag: str) -> dict[str, Any]:
    return {"visaNetworkInfo": [{"issuerCountryCode": 826, "nonMoneyTransferPushFundsCrossBorder": flag}]}


async def ask(world: World, name: str = NAME, **changes: Any) -> None:
    await world.ask(name, **(world.abroad() | changes))


async def assert_unpaid(world: World, reason: str, name: str = NAME) -> None:
    """No OCT, one result, the funding demanded back once."""
    row = await world.row(name)
    assert (row.state, row.reason_code, row.attempts, row.first_intent_at) == ("FAILED", reason, 0, None)
    assert not moved(world)
    (result,) = await world.events(RESULTS, name)
    assert (result["status"], result["reason_code"], result["rail"]) == ("FAILED", reason, None)
    (demand,) = await world.events(COMPENSATIONS, name)
    assert demand["executor"] == "ORIGINATOR"


async def test_b3_a_card_is_asked_about_then_paid(world: World) -> None:
    """B3: attributes, validation, rate, then the push; each question a leased line of the history (P7)."""
    await ask(world)
    await world.settle()
    assert asked(world) == CARD_QUESTIONS
    assert len(world.visa.pushes) == 1
    assert (await world.row(NAME)).state == "PAID"
    begun_and_passed = ["preflight_begun", "preflight_passed"] * 3
    assert await world.life(NAME) == ["received", "validated", "cleared", *begun_and_passed, "intent", "paid"]
    detail = next(entry.detail for entry in await world.model.history(NAME) if entry.transition == "preflight_begun")
    assert detail == {"question": "card_attributes", "policy_version": world.policies.corridors.stamp}


async def test_s1_every_question_has_numbers_of_its_own(world: World) -> None:
    """S1: no STAN and RRN of a question is another's or the push's, and none has the payout's transaction id."""
    await ask(world)
    await ask(world, "payout-0002", destination=world.request("x")["destination"])
    await world.settle()
    bodies = [body(request) for request in world.visa.requests if request.operation is not Operation.RATE_QUOTE]
    numbers = [(one["systemsTraceAuditNumber"], one["retrievalReferenceNumber"]) for one in bodies]
    assert len(set(numbers)) == len(numbers) >= 4
    questions = [request for request in world.visa.requests if request.operation in PREFLIGHT_QUESTIONS]
    assert {request.client_transaction_id for request in questions} == {None}


async def test_a_corridor_without_preflight_asks_nothing(world: World) -> None:
    """Off unless the policy turns it on."""
    await world.ask(NAME)
    await world.settle()
    assert asked(world) == []
    assert len(world.visa.pushes) == 1


async def test_a_token_reference_is_not_asked_about(world: World) -> None:
    """FTAI and PAV want the number; the rate is asked for all the same."""
    token = {"token_reference": "tok_approve_1", "encrypted_card": None}
    await ask(world, destination={"kind": "CARD", "card": token, "account": None, "wallet": None, "alias": None})
    await world.settle()
    assert asked(world) == [Operation.RATE_QUOTE]
    assert (await world.row(NAME)).state == "PAID"


@pytest.mark.parametrize(
    ("operation", "answer", "reason"),
    [
        (Operation.CARD_ATTRIBUTES, no_attributes("N"), "CARD_NOT_ELIGIBLE"),
        (Operation.CARD_VALIDATION, {"actionCode": "54"}, "CARD_NOT_VALID"),
        (Operation.RATE_QUOTE, {"conversionRate": "0.70"}, "SLIPPAGE_EXCEEDED"),
    ],
)
async def test_b3_a_refusal_for_good_ends_the_payout_before_any_push(
    world: World, operation: Operation, answer: dict[str, Any], reason: str
) -> None:
    """B3, B8, S1-30, F-09: FAILED with its reason, no OCT, the funding handed back; the next payout asks for itself."""
    world.visa.answers[operation] = answer
    await ask(world)
    await world.settle()
    await assert_unpaid(world, reason)
    before = len(world.visa.calls(operation))
    await ask(world, "payout-0002")
    await world.settle()
    assert len(world.visa.calls(operation)) == before + 1, "a refusal is not remembered"


async def test_b8_a_quote_that_ends_before_the_first_intent_ends_the_payout(world: World) -> None:
    """B8: accepted in time, and over while the questions waited; nothing is sent at a rate that nobody guarantees."""
    world.visa.script[Operation.RATE_QUOTE] = [lambda _: refused(429, retry_after="60")]
    await ask(world, **world.abroad(expires_at=world.now_in(30)))
    await world.settle()
    await assert_unpaid(world, "QUOTE_EXPIRED")
    assert len(world.visa.calls(Operation.RATE_QUOTE)) == 1


SILENT: list[Behaviour] = [
    lambda _: lost_reply(),
    lambda _: Failed(False, FailureCause.CONNECT_FAILED),
    lambda _: Answered(200, {}, None, BodyProblem.UNDECRYPTABLE, None, 0.1),
    lambda _: refused(429),
    lambda _: refused(503),
]


@pytest.mark.parametrize("behaviour", SILENT, ids=["silence", "no connection", "undecryptable", "429", "503"])
@pytest.mark.parametrize("operation", CARD_QUESTIONS)
async def test_b3_without_an_answer_nothing_happens_and_nothing_is_spent(
    world: World, operation: Operation, behaviour: Behaviour
) -> None:
    """B3, S2-01, S7: never a push; due later with its budget whole, however long it lasts; paid when it is over."""
    world.visa.script[operation] = [behaviour] * 25
    await ask(world, **world.abroad(expires_at=world.now_in(10_000)))
    await world.settle(seconds=20.0)
    row = await world.row(NAME)
    assert (row.state, row.own_failures, row.first_intent_at) == ("CLEARED", 0, None)
    assert not moved(world)
    assert not world.broker.topics[RESULTS]
    world.visa.script[operation].clear()
    await world.settle()
    assert (await world.row(NAME)).state == "PAID"
    assert len(world.visa.pushes) == 1


async def test_s7_an_error_of_the_payouts_own_ends_it_with_its_budget(world: World) -> None:
    """S7, P1: a question that always breaks for this payout does not wait for ever."""
    world.visa.script[Operation.CARD_VALIDATION] = [lambda _: refused(500)] * 50
    await ask(world, **world.abroad(expires_at=world.now_in(100_000)))
    await world.settle(seconds=3600.0)
    assert len(world.visa.calls(Operation.CARD_VALIDATION)) == world.schedule.retry_budget
    await assert_unpaid(world, "RETRY_BUDGET_SPENT")


async def test_k5_a_lane_of_its_own_pauses_and_leaves_the_other_corridors_alone(world: World) -> None:
    """K5, S7: eight questions without an answer pause PREFLIGHT; a push of a corridor that asks nothing goes on."""
    world.visa.script[Operation.CARD_ATTRIBUTES] = [lambda _: lost_reply()] * 8
    for number in range(8):
        await ask(world, f"payout-1{number:03}", **world.abroad(expires_at=world.now_in(10_000)))
    await world.deliver_all()
    pauses = world.worker.calls.pauses
    assert pauses.preflight.pause.reason == "visa:READ_TIMEOUT"
    assert not pauses.stop_payouts
    await world.ask(NAME)
    await world.deliver_all()
    assert (await world.row(NAME)).state == "PAID"
    await world.settle()
    assert {row.state for row in world.rows()} == {"PAID"}


async def test_l9_no_question_leaves_after_halted(world: World) -> None:
    """L9: a question takes the mode's lock and the row's lease, as every call does; back to normal, all is asked."""
    await world.model.set_mode(Mode.HALTED, "operator-1", "a test", 1.0)
    await ask(world)
    await world.settle(seconds=30.0)
    assert world.visa.requests == []
    assert (await world.row(NAME)).state == "CLEARED"
    await world.model.set_mode(Mode.NORMAL, "operator-1", "a test", 1.0)
    await world.settle()
    assert (await world.row(NAME)).state == "PAID"


async def test_b3_a_corridor_that_is_closed_meanwhile_is_not_sent_to(world: World) -> None:
    """B3, P7: accepted under a policy that asks; a worker whose policy has no such corridor sends nothing unasked."""
    await world.model.set_mode(Mode.HALTED, "operator-1", "a test", 1.0)
    await ask(world)
    await world.settle(seconds=30.0)
    corridors = world.policies.corridors
    row = await world.row(NAME)
    closed = (row.source_country, row.target_country, row.currency, row.target_currency)
    others = {key: rules for key, rules in corridors.corridors.items() if key != closed}
    assert len(others) == len(corridors.corridors) - 1
    world.policies = replace(world.policies, corridors=replace(corridors, corridors=others))
    world.worker = world.start_worker()
    await world.model.set_mode(Mode.NORMAL, "operator-1", "a test", 1.0)
    await world.settle()
    await assert_unpaid(world, "CORRIDOR_UNKNOWN")
    assert world.visa.requests == []


async def test_l9_l3_a_question_under_way_is_a_lease_that_halting_waits_for(world: World) -> None:
    """L3, L9: while it is under way its row is leased, and nobody else asks about it."""
    seen: list[tuple[str | None, int]] = []

    async def look(request: VisaRequest) -> None:
        if request.operation is Operation.CARD_ATTRIBUTES:
            row = await world.model.read(NAME)
            assert row is not None
            assert row.lease_until is not None
            seen.append((row.lease_owner, (await world.model.counts())["leased"]))

    world.visa.pause = look
    await ask(world)
    await world.settle()
    assert [(owner is not None, leased) for owner, leased in seen] == [(True, 1)]
    assert (await world.row(NAME)).lease_owner is None


async def test_l12_a_payout_held_meanwhile_is_not_pushed(world: World) -> None:
    """L12: held while a question is under way: its answer is written, and nothing more leaves."""

    async def hold(request: VisaRequest) -> None:
        if request.operation is Operation.CARD_VALIDATION:
            row = await world.row(NAME)
            await world.put_row(row, held=True, hold_reason="OPERATOR", version=row.version + 1)

    world.visa.pause = hold
    await ask(world)
    await world.settle()
    row = await world.row(NAME)
    assert (row.state, row.held, row.lease_owner) == ("CLEARED", True, None)
    assert not moved(world)


async def test_f08_one_card_is_asked_about_once_in_half_a_minute(world: World) -> None:
    """B6, F-08: the second payout of the moment uses what is known; after a minute all is asked again."""
    await ask(world)
    await ask(world, "payout-0002")
    await world.deliver_all()
    assert asked(world) == CARD_QUESTIONS
    assert len(world.visa.pushes) == 2
    world.advance(61.0)
    await ask(world, "payout-0003")
    await world.deliver_all()
    assert asked(world) == CARD_QUESTIONS * 2


async def test_b6_what_is_half_a_minute_old_is_asked_again_and_kept_if_nobody_answers(world: World) -> None:
    """B6: revalidated after half its time; Visa's silence does not stop what was known half a minute ago."""
    await ask(world)
    await world.deliver_all()
    world.advance(40.0)
    for operation in CARD_QUESTIONS:
        world.visa.script[operation] = [lambda _: lost_reply()]
    await ask(world, "payout-0002")
    await world.deliver_all()
    assert asked(world) == CARD_QUESTIONS * 2
    assert (await world.row("payout-0002")).state == "PAID"
    world.advance(21.0)
    world.visa.script[Operation.CARD_ATTRIBUTES] = [lambda _: lost_reply()]
    await ask(world, "payout-0003")
    await world.deliver_all()
    assert (await world.row("payout-0003")).state == "CLEARED", "a minute old: nothing is known any more"


async def test_b6_an_answer_that_does_not_confirm_takes_the_place_of_the_one_before(world: World) -> None:
    """B6: Visa answered, and no longer says yes: what was known half a minute ago is no reason to pay."""
    await ask(world)
    await world.deliver_all()
    world.advance(40.0)
    world.visa.script[Operation.CARD_VALIDATION] = [lambda _: Answered(200, {}, {"actionCode": "Q9"}, None, None, 0.1)]
    await ask(world, "payout-0002")
    await world.deliver_all()
    assert (await world.row("payout-0002")).state == "CLEARED"
    assert len(moved(world)) == 1
    world.visa.script[Operation.CARD_VALIDATION] = [lambda _: lost_reply()]
    await ask(world, "payout-0003")
    await world.deliver_all()
    assert (await world.row("payout-0003")).state == "CLEARED", "and nothing is known of it any more"


async def test_b6_what_is_still_valid_after_the_wait_for_a_turn_is_not_asked_again(world: World) -> None:
    """A payout that waits forty seconds for its turn to push must not ask for ever."""
    await ask(world, **world.abroad(expires_at=world.now_in(10_000)))
    lane_of_push = world.worker.calls.pauses.lane(CallKind.PUSH)
    waited = []

    async def wait(request: VisaRequest) -> None:
        if request.operation is Operation.RATE_QUOTE and not waited:
            waited.append(request)
            turn = lane_of_push.pause.admit()
            assert turn is not None
            lane_of_push.pause.failed(turn, "visa:READ_TIMEOUT", at_once=True, wait_seconds=40.0)

    world.visa.pause = wait
    await world.settle(seconds=300.0)
    assert (await world.row(NAME)).state == "PAID"
    assert asked(world) == CARD_QUESTIONS


async def test_b6_what_grew_old_behind_a_paused_push_is_asked_again(world: World) -> None:
    """F-08: answered, then the push's lane was paused for long: the answers are asked for again before the intent."""
    await ask(world, **world.abroad(expires_at=world.now_in(10_000)))
    lane_of_push = world.worker.calls.pauses.lane(CallKind.PUSH)
    waited = []

    async def wait(request: VisaRequest) -> None:
        if request.operation is Operation.RATE_QUOTE and not waited:
            waited.append(request)
            push = lane_of_push.pause
            turn = push.admit()
            assert turn is not None
            push.failed(turn, "visa:READ_TIMEOUT", at_once=True, wait_seconds=100.0)

    world.visa.pause = wait
    await world.settle(seconds=300.0)
    assert (await world.row(NAME)).state == "PAID"
    assert asked(world) == CARD_QUESTIONS * 2


# --- aliases ----------------------------------------------------------------------------------------------------------


async def test_b4_an_alias_becomes_a_card_is_asked_about_and_paid(world: World) -> None:
    """B3, B4: resolved, then as any card; the result is an OCT's."""
    await ask(world, destination=world.alias())
    await world.settle()
    assert asked(world) == [Operation.ALIAS_RESOLUTION, *CARD_QUESTIONS]
    (push,) = world.visa.pushes
    assert push["recipientPrimaryAccountNumber"] == RECIPIENT_CARD
    (result,) = await world.events(RESULTS, NAME)
    assert (result["status"], result["rail"]) == ("PAID", "OCT")


async def test_b3_an_alias_that_nobody_has_ends_the_payout(world: World) -> None:
    not_found = {"errorResponse": {"status": "404", "reason": "ALIAS_NOT_FOUND", "message": "not registered"}}
    world.visa.script[Operation.ALIAS_RESOLUTION] = [lambda _: Answered(404, {}, not_found, None, None, 0.1)]
    await ask(world, destination=world.alias())
    await world.settle()
    await assert_unpaid(world, "ALIAS_NOT_FOUND")


async def test_s3_an_alias_is_resolved_once_and_what_was_sent_stays(world: World) -> None:
    """S3: moved to another card between the first intent and a resend: the same body goes out again."""
    world.visa.script[Operation.PUSH_FUNDS] = [lambda _: refused(429, retry_after="300")]
    await ask(world, destination=world.alias())
    await world.deliver_all()
    world.visa.answers[Operation.ALIAS_RESOLUTION] = {"recipientPrimaryAccountNumber": "4957030420210454"}
    await world.settle(seconds=600.0)
    first, second = world.visa.calls(Operation.PUSH_FUNDS)
    assert first.body == second.body
    assert world.visa.calls(Operation.ALIAS_RESOLUTION) == [world.visa.requests[0]]
    assert (await world.row(NAME)).state == "PAID"


async def test_k7_an_alias_that_cannot_be_read_is_rejected(world: World) -> None:
    destination = world.alias("with a space")
    await ask(world, destination=destination)
    await world.settle()
    row = await world.row(NAME)
    assert (row.state, row.reason_code) == ("REJECTED", "ALIAS_UNREADABLE")


# --- accounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["account", "wallet"])
async def test_b3_an_account_is_validated_under_a_reference_of_its_own_then_paid(world: World, kind: str) -> None:
    """B3, S1: the validation's reference is not the payout's, which it must not use up (S3); all else is."""
    world.visa.account_status = "PAYMENT_DELIVERED"
    await ask(world, destination=getattr(world, kind)(), business_application_id="PP", purpose="ISMDCS")
    await world.settle()
    assert asked(world) == [Operation.VALIDATE_PAYOUT, Operation.RATE_QUOTE]
    validated, rate, sent = (body(request) for request in world.visa.requests[:3])
    assert sent["transactionDetail"]["clientReferenceId"] == sender_reference(NAME)
    assert validated["transactionDetail"]["clientReferenceId"] != sender_reference(NAME)
    for detail in (sent["transactionDetail"], validated["transactionDetail"]):
        del detail["clientReferenceId"], detail["endToEndId"]
    assert validated == sent
    assert (sent["transactionDetail"]["businessApplicationId"], sent["transactionDetail"]["purposeOfPayment"]) == (
        "PP", "ISMDCS",
    )  # fmt: skip
    assert rate["rateProductCode"] == {"account": "BANK", "wallet": "WALLET"}[kind]
    assert (await world.row(NAME)).state == "PAID"


async def test_b3_an_account_that_is_none_ends_the_payout(world: World) -> None:
    wrong = {"details": [{"location": "recipientDetail.bank.accountNumber", "message": "is not an account"}]}
    world.visa.script[Operation.VALIDATE_PAYOUT] = [lambda _: Answered(400, {}, wrong, None, None, 0.1)]
    await ask(world, destination=world.account())
    await world.settle()
    await assert_unpaid(world, "ACCOUNT_NOT_VALID")


# --- crashes and secrets ----------------------------------------------------------------------------------------------


async def test_s2_a_worker_killed_at_any_point_of_the_questions_pays_once(
    world: World, keys: Keys, keys_directory: Path
) -> None:
    """P2, L3: at every boundary of an alias's life: paid once, or found and paid once."""
    await ask(world, destination=world.alias())
    await world.settle()
    assert len(world.visa.pushes) == 1
    for point, name in enumerate(list(world.boundary.passed)):
        other = World(keys, keys_directory)
        other.boundary.kill_at = point
        await ask(other, destination=other.alias())
        await other.settle(seconds=300.0)
        assert len(other.visa.pushes) == 1, f"after a kill at {name}"
        assert (await other.row(NAME)).state == "PAID", f"after a kill at {name}"


async def test_p6_no_alias_and_no_card_is_in_a_topic_row_history_or_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """P6: of the questions and their answers."""
    caplog.set_level("DEBUG")
    await ask(world, destination=world.alias())
    await world.settle()
    row = await world.row(NAME)
    told = [repr(row), caplog.text, *(str(entry) for entry in await world.model.history(NAME))]
    topics = [record.value or b"" for records in world.broker.topics.values() for record in records]
    assert RECIPIENT_CARD in str(world.visa.pushes)
    for secret in (RECIPIENT_CARD, "rosalind@example.com"):
        assert not any(secret in text for text in told)
        assert not any(secret.encode() in value for value in topics)


async def test_many_payouts_to_one_card_at_once_are_all_paid(world: World) -> None:
    """P2: whoever asks first, and whoever finds the answer."""
    for number in range(20):
        await ask(world, f"payout-2{number:03}")
    for topic in ("payout_requests", "payout_validated"):
        for record in list(world.broker.topics[topic]):
            await world.deliver(record)
        world.next_offset[topic] = len(world.broker.topics[topic])
    await asyncio.gather(*(world.deliver(record) for record in list(world.broker.topics["payout_cleared"])))
    world.next_offset["payout_cleared"] = len(world.broker.topics["payout_cleared"])
    await world.settle()
    assert len(world.visa.pushes) == 20
    assert {row.state for row in world.rows()} == {"PAID"}
