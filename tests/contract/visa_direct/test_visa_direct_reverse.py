"""Reverse funds on the stand-in: undoes one AFT, once (C1, C3, C4)."""

import asyncio
from typing import Any

from tests.contract.visa_direct.conftest import Clock
from tests.contract.visa_direct.visa_direct_client import REVERSE, VisaClient, funding, reverse_body


async def reversals(visa: VisaClient) -> list[dict[str, Any]]:
    return [entry for entry in await visa.entries() if entry["operation"] == "reverse" and entry["money_moved"]]


async def test_a_reversal_shares_the_numbers_of_its_aft(visa: VisaClient) -> None:
    """C4: same STAN, RRN and transactionIdentifier; 200 and 00."""
    assert (await visa.fund(funding())).status_code == 201
    answer = await visa.reverse(reverse_body())
    assert (answer.status, answer.body["actionCode"]) == (200, "00")
    assert answer.body["transactionIdentifier"] == int(funding()["transactionIdentifier"])
    aft, reversal = await visa.entries()
    for name in ("stan", "rrn", "transaction_identifier", "amount", "currency", "recipient_fingerprint"):
        assert aft[name] == reversal[name]


async def test_a_second_reversal_is_94_and_moves_nothing(visa: VisaClient) -> None:
    """C1: a reversal takes effect at most once; the repeat says 94 with originalActionCode 00."""
    await visa.fund(funding())
    answers = await asyncio.gather(*(visa.reverse(reverse_body()) for _ in range(10)))
    assert sorted(answer.body["actionCode"] for answer in answers) == ["00"] + ["94"] * 9
    assert {answer.body.get("originalActionCode") for answer in answers} == {None, "00"}
    assert len(await reversals(visa)) == 1


async def test_a_second_reversal_is_94_also_from_another_terminal_and_after_a_day(
    visa: VisaClient, clock: Clock
) -> None:
    """C1: once per AFT, not once per five fields and not once a day."""
    await visa.fund(funding())
    await visa.reverse(reverse_body())
    clock.ahead_seconds = 25 * 3600
    other = reverse_body()["cardAcceptor"] | {"terminalId": "T2"}
    assert (await visa.reverse(reverse_body(cardAcceptor=other))).body["actionCode"] == "94"
    assert len(await reversals(visa)) == 1


MISMATCHES: list[tuple[dict[str, Any], str]] = [
    ({"transactionIdentifier": 399999999999999}, "25"),
    ({"retrievalReferenceNumber": "603111000002"}, "25"),
    ({"senderPaymentCredentialReference": {"type": "PCI_TOKEN_REFID", "value": "tok_other"}}, "25"),
    ({"originalDataElements": reverse_body()["originalDataElements"] | {"approvalCode": "000000"}}, "25"),
    ({"amount": "50.01"}, "13"),
    ({"senderCurrencyCode": "EUR"}, "13"),
]


async def test_a_reversal_that_matches_no_aft_moves_nothing(visa: VisaClient) -> None:
    """It must match an AFT in numbers, identifier, approval code, card, amount and currency."""
    await visa.fund(funding())
    for change, code in MISMATCHES:
        answer = await visa.reverse(reverse_body() | change)
        assert (change, answer.body["actionCode"]) == (change, code)
    assert await reversals(visa) == []
    same_amount = await visa.reverse(reverse_body(amount=50, senderCurrencyCode="840"))
    assert same_amount.body["actionCode"] == "00"


async def test_without_any_aft_the_original_is_not_found(visa: VisaClient) -> None:
    """responseCode 8: no matching original."""
    answer = await visa.reverse(reverse_body())
    assert (answer.body["actionCode"], answer.body["responseCode"]) == ("25", "8")


async def test_a_reversal_after_24_hours_is_refused(visa: VisaClient, clock: Clock) -> None:
    """Within 24 h of the AFT; later it takes an adjustment."""
    await visa.fund(funding())
    clock.ahead_seconds = 24 * 3600 + 30
    assert (await visa.reverse(reverse_body())).body["actionCode"] == "12"
    assert await reversals(visa) == []


async def test_a_required_field_that_is_missing_is_400_3001(visa: VisaClient) -> None:
    """Required fields of the reversal."""
    for name in (
        "merchantCategoryCode",
        "originalDataElements",
        "senderCurrencyCode",
        "transactionIdentifier",
        "senderPaymentCredentialReference",
    ):
        body = reverse_body()
        del body[name]
        answer = await visa.reverse(body)
        assert (name, answer.status, answer.code) == (name, 400, "3001")


async def test_original_data_that_contradicts_is_400(visa: VisaClient) -> None:
    """AFTR repeats the AFT's STAN, in both places."""
    await visa.fund(funding())
    body = reverse_body()
    body["originalDataElements"]["systemsTraceAuditNumber"] = 111111
    assert (await visa.reverse(body)).code == "3001"


async def test_a_reversal_can_be_late_too(visa: VisaClient) -> None:
    """202 and status GET work for a reversal as for a push."""
    await visa.fund(funding())
    accepted = await visa.reverse(reverse_body(), X_Transaction_Timeout_MS="1")
    assert accepted.status == 202
    answer = await visa.settled(f"{REVERSE}/{accepted.body['statusIdentifier']}")
    assert answer.body["actionCode"] == "00"
    assert (await visa.status(accepted.body["statusIdentifier"])).status == 404


async def test_the_funding_fixture_is_idempotent_and_refuses_other_content(visa: VisaClient) -> None:
    """The ledger is append-only: the same AFT again is 200, another under its numbers is 409."""
    fixture = funding()
    assert [(await visa.fund(fixture)).status_code for _ in range(2)] == [201, 200]
    conflict = await visa.fund(fixture | {"amount": "51.00"})
    assert conflict.status_code == 409
    assert "other content" in conflict.json()["error"]
    assert len(await visa.entries()) == 1


async def test_a_malformed_funding_fixture_is_refused(visa: VisaClient) -> None:
    """The fixture is checked as strictly as a request."""
    changes = ({"stan": "1"}, {"captured_at": "2026-01-31T12:00:00"}, {"extra": 1}, {"currency": "XYZ"})
    for change in changes:
        answer = await visa.fund(funding() | change)
        assert answer.status_code == 400
        assert next(iter(change)) in answer.json()["error"]
    assert await visa.entries() == []
