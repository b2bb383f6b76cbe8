"""Account and wallet payouts on the stand-in: one name, no duplicate key, ten statuses, money by a timetable (S3, S8).

The documented facts have their cases in sandbox/conformance; here is what only the stand-in's own ports show.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.visa_direct.account_lives import Lives
from sandbox.visa_direct.faults import ACCOUNT_POSTS, ACCOUNT_QUERY, FAULTS, INQUIRIES
from sandbox.visa_direct.fingerprint import recipient_fingerprint
from sandbox.visa_direct.server import running
from sandbox.visa_direct.settings import Settings
from tests.contract.visa_direct.conftest import Clock
from tests.contract.visa_direct.visa_direct_client import (
    CANCEL,
    PARTY,
    RATES,
    VisaClient,
    account_reference,
    eventually,
    payout_body,
)

Start = Callable[..., Awaitable[VisaClient]]
LOST = (httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout)
ACCOUNT = "GB33BUKB20201555555555"


@pytest.fixture
async def at_once(start: Start) -> VisaClient:
    """A stand-in that delivers at once."""
    return await start(accounts_pace_seconds=0)


def files_with(directory: Path, text: bytes) -> list[str]:
    return [file.name for file in directory.rglob("*") if file.is_file() and text in file.read_bytes()]


async def test_a_repeat_is_a_second_payout(at_once: VisaClient) -> None:
    """S3: nothing that Visa publishes protects an account payout, so here nothing does; the query shows both."""
    for _ in range(2):
        assert (await at_once.send(payout_body(), X_Client_Transaction_ID="c1")).status == 200
    entries = await at_once.entries(sender_reference=account_reference(1))
    assert [(entry["operation"], entry["money_moved"]) for entry in entries] == [("account", True)] * 2
    found = (await at_once.asked(1)).body
    assert len({payout["payoutId"] for payout in found}) == 2


async def test_a_repeat_is_refused_if_so_set(at_once: VisaClient) -> None:
    """S3: the other thing that Visa may do; whoever relies on it finds out that it is a setting."""
    await at_once.knobs(accounts_repeat="refused")
    answers = await asyncio.gather(*(at_once.send(payout_body()) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [200] + [400] * 9
    assert {answer.body["reason"] for answer in answers if answer.status == 400} == {"InvalidPayoutRequest"}
    assert len(await at_once.entries()) == 1


async def test_an_entry_names_the_payout_and_no_account_number(at_once: VisaClient, with_credentials: Path) -> None:
    """P6: amount, reference and a keyed fingerprint; the number is in no file."""
    await at_once.send(payout_body(1, ACCOUNT))
    (entry,) = await at_once.entries()
    key = (with_credentials / "credentials" / "fingerprint.key").read_bytes()
    assert entry["recipient_fingerprint"] == recipient_fingerprint(key, ACCOUNT)
    assert (entry["amount"], entry["currency"]) == ("25.50", "USD")
    assert entry["sender_reference"] == account_reference(1)
    assert files_with(with_credentials, account_reference(1).encode())
    assert files_with(with_credentials, ACCOUNT.encode()) == []


async def test_money_moves_when_it_is_due_and_not_before(start: Start, clock: Clock) -> None:
    """S8: accepted is not delivered; the entry has the time at which it fell due, whenever somebody looks."""
    visa = await start(accounts_pace_seconds=100)
    await visa.send(payout_body(1, "TESTRETURNLATE7"))
    assert await visa.entries() == []
    clock.ahead_seconds = 250
    assert [entry["operation"] for entry in await visa.entries()] == ["account"]
    clock.ahead_seconds = 1000
    credit, back = await visa.entries()
    assert (credit["operation"], back["operation"]) == ("account", "account_return")
    assert back["at_ms"] - credit["at_ms"] == 100_000
    assert (await visa.asked(1)).body["status"] == "RETURNED"


async def test_money_may_come_back_long_after_it_was_delivered(start: Start, clock: Clock) -> None:
    """S8: so that whoever asks now and then sees PAYMENT_DELIVERED first."""
    visa = await start(accounts_pace_seconds=100)
    await visa.send(payout_body(1, "TESTRETURNSLOW7"))
    clock.ahead_seconds = 2450
    assert (await visa.asked(1)).body["status"] == "PAYMENT_DELIVERED"
    clock.ahead_seconds = 2550
    assert (await visa.asked(1)).body["status"] == "RETURNED"
    credit, back = await visa.entries()
    assert (credit["operation"], back["operation"]) == ("account", "account_return")
    assert back["at_ms"] - credit["at_ms"] == 2_400_000


async def test_what_is_due_survives_a_restart(with_credentials: Path, clock: Clock) -> None:
    """A stand-in that was away when money fell due writes it down once, at its time."""
    settings = Settings(state_directory=with_credentials, clock=clock, accounts_pace_seconds=100)
    async with running(settings) as endpoint:
        visa = VisaClient(endpoint.base_url, endpoint.admin_url, endpoint.credentials.client_directory)
        await visa.send(payout_body())
        await visa.close()
    clock.ahead_seconds = 1000
    for _ in range(2):
        async with running(settings) as endpoint:
            visa = VisaClient(endpoint.base_url, endpoint.admin_url, endpoint.credentials.client_directory)
            visa.now = clock
            assert [entry["operation"] for entry in await visa.entries()] == ["account"]
            assert (await visa.asked(1)).body["status"] == "PAYMENT_DELIVERED"
            await visa.close()


async def test_a_cancellation_that_comes_too_late_changes_nothing(start: Start, clock: Clock) -> None:
    """The money has left: 400, and it is delivered all the same; one in time keeps it back for good."""
    visa = await start(accounts_pace_seconds=100)
    for number in (1, 2):
        await visa.send(payout_body(number))
    asked = {"idType": "CLIENT_REFERENCE_ID", "initiatingPartyId": PARTY}
    in_time = await visa.post(CANCEL, {"id": account_reference(1)} | asked)
    assert in_time.body["status"] == "PENDING_CANCELLATION"
    clock.ahead_seconds = 150
    assert (await visa.post(CANCEL, {"id": account_reference(2)} | asked)).status == 400
    assert (await visa.post(CANCEL, {"id": account_reference(1)} | asked)).body["status"] == "CANCELLED"
    clock.ahead_seconds = 1000
    assert [entry["sender_reference"] for entry in await visa.entries()] == [account_reference(2)]


# What was answered, and how many payouts there are then: every fault that a send can meet.
AFTER_SEND: dict[str, tuple[int | None, int]] = {
    "refuse": (None, 0),
    "silence_before_effect": (None, 0),
    "reset_before_effect": (None, 0),
    "effect_then_silence": (None, 1),
    "effect_then_reset": (None, 1),
    **{str(status): (status, 0) for status in (400, 401, 403, 404, 429, 500, 502, 503, 504)},
    **{f"effect_then_{status}": (status, 1) for status in (500, 502, 503, 504)},
    "slow": (200, 1),
    "late_202": (202, 1),
    "malformed_body": (200, 1),
    "undecryptable_body": (200, 1),
}


def test_every_fault_of_a_send_is_known_here() -> None:
    """B13: a fault that nobody has looked at would prove nothing."""
    assert AFTER_SEND.keys() == {name for name, fault in FAULTS.items() if "account_send" in fault.operations}


@pytest.mark.parametrize("fault", sorted(AFTER_SEND))
async def test_what_is_left_of_a_send_under_each_fault(at_once: VisaClient, fault: str) -> None:
    """S3, S4: the answer says nothing that the ledger does not bear out; the query finds what took effect."""
    status, payouts = AFTER_SEND[fault]
    timed = fault in ("slow", "late_202") or "silence" in fault
    rule: dict[str, Any] = {"operation": "account_send", "fault": fault}
    await at_once.faults(rule | ({"seconds": 0.2} if timed else {}))
    body = payout_body()
    if status is None:
        with pytest.raises(LOST):
            await at_once.send(body)
    else:
        content = at_once.encrypt(json.dumps(body).encode())
        response = await at_once.visa.post("/visapayouts/v3/payouts", content=content, headers=at_once.headers())
        assert response.status_code == status
    await at_once.faults()

    async def settled() -> bool:
        return len(await at_once.entries()) == payouts and (await at_once.asked(1)).status != 202

    await eventually(settled)
    assert (await at_once.asked(1)).status == (200 if payouts else 404)
    (logged,) = [row for row in await at_once.requests() if row["operation"] == "account_send"]
    assert (logged["http_status"], logged["fault"]) == (status, fault)


async def test_a_query_can_be_blind_late_or_strange(at_once: VisaClient) -> None:
    """S8: not found proves nothing, an old status may be shown, and a new one may come."""
    await at_once.send(payout_body())
    for fault, seconds, expected in (
        ("query_not_found", None, 404),
        ("query_lag", 600, 404),
        ("query_lag", 0, "PAYMENT_DELIVERED"),
        ("account_status_first", 600, "PAYMENT_RECEIVED"),
        ("account_status_first", 0, "PAYMENT_DELIVERED"),
        ("account_status_unknown", None, "PAYMENT_PONDERED"),
    ):
        await at_once.faults({"operation": "account_query", "fault": fault, "seconds": seconds})
        answer = await at_once.asked(1)
        found = answer.status if answer.status != 200 else answer.body["status"]
        assert (fault, found) == (fault, expected)


async def test_an_unknown_payout_is_not_found_in_either_form(at_once: VisaClient) -> None:
    """What Visa answers is not public: a 404 of the product's shape, or an empty list."""
    answer = await at_once.asked(1)
    assert (answer.status, answer.body["status"], answer.encrypted) == (404, 404, False)
    await at_once.knobs(accounts_no_match="empty")
    answer = await at_once.asked(1)
    assert (answer.status, answer.body) == (200, [])


async def test_another_party_does_not_see_it(at_once: VisaClient) -> None:
    """A payout belongs to initiatingPartyId and reference together."""
    await at_once.send(payout_body())
    await at_once.send(payout_body(initiatingPartyId=1003))
    assert (await at_once.asked(1)).body["transactionDetail"]["initiatingPartyId"] == PARTY
    assert len(await at_once.entries()) == 2


async def test_a_quote_is_taken_until_it_expires(at_once: VisaClient, clock: Clock) -> None:
    """A send names the quote that it was promised; one that has expired, or was never given, is a 400."""
    asked = {"initiatingPartyId": PARTY, "rateProductCode": "BANK", "sourceCurrencyCode": "USD"}
    wanted = asked | {"destinationCurrencyCode": "GBP", "quoteIdRequired": True}
    quote = (await at_once.post(RATES, wanted)).body["quoteId"]
    assert (await at_once.send(payout_body(1, quoteId=quote))).status == 200
    clock.ahead_seconds = 3600
    late = await at_once.send(payout_body(2, quoteId=quote))
    assert (late.status, late.body["details"][0]["location"]) == (400, "transactionDetail.quoteId")
    await at_once.faults({"operation": "rates", "fault": "quote_expired"})
    stale = (await at_once.post(RATES, wanted)).body["quoteId"]
    assert (await at_once.send(payout_body(3, quoteId=stale))).status == 400
    assert len(await at_once.entries()) == 1


async def test_an_error_never_repeats_a_value(at_once: VisaClient) -> None:
    """P6: places and reasons, not what was there."""
    body = payout_body(1, "TESTREFUSED5", clientReferenceId="R" * 40)
    answer = await at_once.send(body)
    assert answer.status == 400
    assert "TESTREFUSED5" not in str(answer.body)
    assert "R" * 36 not in str(answer.body)


def test_lives_end_as_they_say() -> None:
    """The data file: what is not named is delivered; a number behind a name changes nothing."""
    lives = Lives()
    assert lives.of(ACCOUNT) == lives.of("TESTDELIVER0009") == lives.of("TESTNOBODY")
    assert lives.of("TESTREJECT12").steps[-1] == "REJECTED"


def test_accounts_have_the_faults_of_their_kind() -> None:
    """B13: what moves money can lose its answer after the effect; a question cannot have one."""
    for operations, moves in ((ACCOUNT_POSTS, True), (ACCOUNT_QUERY, False), (INQUIRIES, False)):
        for operation in operations:
            assert (operation in FAULTS["effect_then_silence"].operations) == moves
            assert operation in FAULTS["silence_before_effect"].operations
