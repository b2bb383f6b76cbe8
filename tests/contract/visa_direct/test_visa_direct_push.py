"""Push funds on the stand-in: validation, leniencies, outcomes, the duplicate key, 202 and 303 (S1, S3, S4, P2)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from sandbox.visa_direct import operations
from tests.contract.visa_direct.conftest import Clock
from tests.contract.visa_direct.visa_direct_client import (
    APPROVED_CARD,
    LONG_SECONDS,
    PUSH,
    VisaClient,
    eventually,
    push_body,
)

Start = Callable[..., Awaitable[VisaClient]]
DAY_SECONDS = 24 * 3600


def moved(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["money_moved"]]


def without(body: dict[str, Any], path: str) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return {
        name: without(value, rest) if rest and name == head else value
        for name, value in body.items()
        if rest or name != head
    }


async def test_an_approval_has_the_fields_of_the_openapi(visa: VisaClient) -> None:
    """200: transactionIdentifier is a number of 15 digits, responseCode one character, time with Z."""
    answer = await visa.push(push_body(1, APPROVED_CARD))
    assert answer.status == 200
    assert answer.body["actionCode"] == "00"
    assert answer.body["approvalCode"] == "21324K"
    assert isinstance(answer.body["transactionIdentifier"], int)
    assert len(str(answer.body["transactionIdentifier"])) == 15
    assert answer.body["transactionIdentifier"] < 2**53
    assert answer.body["responseCode"] == "5"
    assert answer.body["transmissionDateTime"].endswith("Z")
    assert answer.body["last4ofPAN"] == 462
    assert "originalActionCode" not in answer.body


REQUIRED = [
    "acquirerCountryCode",
    "acquiringBin",
    "amount",
    "businessApplicationId",
    "cardAcceptor",
    "cardAcceptor.name",
    "cardAcceptor.idCode",
    "cardAcceptor.terminalId",
    "cardAcceptor.address",
    "cardAcceptor.address.country",
    "localTransactionDateTime",
    "retrievalReferenceNumber",
    "systemsTraceAuditNumber",
    "transactionCurrencyCode",
    "senderReference",
    "recipientPaymentCredentialReference",
]


async def test_a_required_field_that_is_missing_is_400_3001(visa: VisaClient) -> None:
    """400 with code 3001 names the field; nothing takes effect."""
    for path in REQUIRED:
        answer = await visa.push(without(push_body(), path))
        assert (path, answer.status, answer.code) == (path, 400, "3001")
        assert path.split(".")[-1] in answer.body["responseStatus"]["message"]
    assert await visa.entries() == []


MALFORMED: list[dict[str, Any]] = [
    {"systemsTraceAuditNumber": 12345},
    {"systemsTraceAuditNumber": 1234567},
    {"acquiringBin": "40899"},
    {"retrievalReferenceNumber": "60311200000"},
    {"businessApplicationId": "FDX"},
    {"localTransactionDateTime": "2026-01-31T12:00:00Z"},
    {"transactionCurrencyCode": "XYZ"},
    {"senderReference": "A" * 17},
    {"senderName": "A"},
    {"amount": "-1.00"},
    {"amount": "1e2"},
    {"amount": "1000000000"},
    {"amount": "1.0001"},
    {"amount": True},
    {"recipientCardExpiryDate": "2040-13"},
    {"recipientPrimaryAccountNumber": APPROVED_CARD},
    {"pointOfServiceData": {"motoECIIndicator": 9}},
]


async def test_a_malformed_field_is_400_3001(visa: VisaClient) -> None:
    """Lengths, patterns and one-of rules of the OpenAPI."""
    for change in MALFORMED:
        answer = await visa.push(push_body() | change)
        assert (change, answer.status, answer.code) == (change, 400, "3001")
    assert await visa.entries() == []


async def test_the_reference_must_begin_with_a_valid_day(visa: VisaClient) -> None:
    """RRN: its first four digits are a valid yddd, day 001 to 366."""
    for rrn, status in (("600012000000", 400), ("600112000000", 200), ("636612000000", 200), ("636712000000", 400)):
        assert (rrn, (await visa.push(push_body(retrievalReferenceNumber=rrn))).status) == (rrn, status)
    assert (await visa.push(push_body(retrievalReferenceNumber="6x0112000000"))).code == "3001"


async def test_a_stale_day_in_the_reference_is_accepted(visa: VisaClient) -> None:
    """Visa's own samples carry yddd=4127 years later."""
    body = push_body(retrievalReferenceNumber="412770451018", systemsTraceAuditNumber="451018")
    assert (await visa.push(body)).status == 200


AMOUNTS = [
    ("100", "JPY", 200),
    ("100.5", "JPY", 400),
    ("1.25", "USD", 200),
    ("1.250", "USD", 400),
    ("1.250", "KWD", 200),
    ("1.251", "KWD", 400),
    ("1.25", "840", 200),
    ("100.5", "392", 400),
]


async def test_the_amount_fits_the_currency(visa: VisaClient) -> None:
    """No decimals in yen, two in dollars, three in dinars with a 0 at the end; alphabetic or numeric code."""
    for amount, currency, status in AMOUNTS:
        answer = await visa.push(push_body(amount=amount, transactionCurrencyCode=currency))
        assert (amount, currency, answer.status) == (amount, currency, status)


async def test_visas_own_samples_are_accepted(visa: VisaClient) -> None:
    """Leniencies: numbers as strings, no city, motoECIIndicator 0, a card number that fails its check digit."""
    body = push_body(
        1,
        "4060320000000127",
        acquirerCountryCode="840",
        acquiringBin="408999",
        amount=124.05,
        systemsTraceAuditNumber="451018",
        merchantCategoryCode="6012",
        pointOfServiceData={"panEntryMode": "90", "posConditionCode": "0", "motoECIIndicator": 0},
        somethingNew="ignored",
    )
    del body["cardAcceptor"]["address"]["city"]
    answer = await visa.push(body)
    assert (answer.status, answer.body["actionCode"]) == (200, "00")
    assert [entry["amount"] for entry in await visa.entries()] == ["124.05"]


async def test_an_error_never_repeats_a_value(visa: VisaClient) -> None:
    """P6: the message names fields, not what was in them."""
    body = push_body(1, APPROVED_CARD, senderName="X", amount="12.345", retrievalReferenceNumber="999999999999")
    body["recipientPrimaryAccountNumber"] = APPROVED_CARD + "0000"
    answer = await visa.push(body)
    text = answer.body["responseStatus"]["message"]
    assert answer.status == 400
    assert APPROVED_CARD not in text
    assert "999999999999" not in text


DECLINES = [
    ("4957030420210496", "65"),
    ("4003974278332156", "05"),
    ("4000000000000507", "05"),
    ("4000000000001406", "14"),
    ("4000000000005100", "51"),
    ("4000000000005407", "54"),
    ("4000000000005704", "57"),
    ("4000000000006108", "61"),
    ("4000000000006207", "62"),
    ("4000000000009102", "91"),
    ("4000000000009607", "96"),
    ("tok_decline_05", "05"),
    ("tok_decline_14", "14"),
    ("tok_decline_51", "51"),
    ("tok_decline_51_000123", "51"),
    ("tok_decline_54", "54"),
    ("tok_decline_57", "57"),
    ("tok_decline_61", "61"),
    ("tok_decline_62", "62"),
    ("tok_decline_65", "65"),
    ("tok_decline_91", "91"),
    ("tok_decline_96", "96"),
]


async def test_a_decline_is_200_with_its_action_code(visa: VisaClient) -> None:
    """Declines are HTTP 200 with another actionCode; they move no money and have no approval code."""
    for number, (recipient, code) in enumerate(DECLINES):
        answer = await visa.push(push_body(number, recipient))
        assert (recipient, answer.status, answer.body["actionCode"]) == (recipient, 200, code)
        assert "approvalCode" not in answer.body
    entries = [(entry["action_code"], entry["money_moved"]) for entry in await visa.entries()]
    assert entries == [(code, False) for _, code in DECLINES]


APPROVALS = [
    (APPROVED_CARD, "00"),
    ("4957030420210454", "00"),
    ("4000000000001000", "10"),
    ("4000000000001109", "11"),
    ("4111111111111111", "00"),
    ("tok_approve_1", "00"),
    ("tok_approve_vip", "11"),
    ("tok_approve_partial", "10"),
    ("nobody_knows_me", "00"),
]


async def test_approvals_and_unknown_recipients_move_money(visa: VisaClient) -> None:
    """00, 10 and 11 move money; a card or token that the data file does not name is approved."""
    for number, (recipient, code) in enumerate(APPROVALS):
        answer = await visa.push(push_body(number, recipient))
        assert (recipient, answer.body["actionCode"]) == (recipient, code)
    assert [entry["action_code"] for entry in moved(await visa.entries())] == [code for _, code in APPROVALS]


async def test_a_resend_with_the_same_five_fields_is_94_and_moves_nothing(visa: VisaClient) -> None:
    """S3: 200, 94, originalActionCode, the same transactionIdentifier, and one effect, also with other content."""
    first = await visa.push(push_body())
    again = await visa.push(push_body())
    other = await visa.push(
        push_body(amount="999.00", recipientPaymentCredentialReference=None)
        | {
            "recipientPrimaryAccountNumber": APPROVED_CARD,
        }
    )
    for answer in (again, other):
        assert (answer.status, answer.body["actionCode"], answer.body["originalActionCode"]) == (200, "94", "00")
        assert answer.body["transactionIdentifier"] == first.body["transactionIdentifier"]
        assert "approvalCode" not in answer.body
    entries = await visa.entries()
    assert [entry["action_code"] for entry in entries] == ["00", "94", "94"]
    assert [entry["duplicate_of"] for entry in entries] == [None, 1, 1]
    assert len(moved(entries)) == 1


async def test_a_resend_of_a_decline_gives_the_declines_code(visa: VisaClient) -> None:
    """S3: originalActionCode is the first result, whatever it was."""
    await visa.push(push_body(1, "tok_decline_51"))
    again = await visa.push(push_body(1, "tok_decline_51"))
    assert (again.body["actionCode"], again.body["originalActionCode"]) == ("94", "51")


@pytest.mark.parametrize(
    "change",
    [
        {"acquiringBin": 408998},
        {"systemsTraceAuditNumber": 100002},
        {"retrievalReferenceNumber": "603112000001"},
        {"cardAcceptor": push_body()["cardAcceptor"] | {"idCode": "OTHER"}},
        {"cardAcceptor": push_body()["cardAcceptor"] | {"terminalId": "T2"}},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_another_value_in_any_of_the_five_fields_pays_again(start: Start, change: dict[str, Any]) -> None:
    """S1, S3: the duplicate key is exactly those five; a new identity is a second payment."""
    visa = await start(acquirers={"408999": "840", "408998": "840"})
    await visa.push(push_body())
    assert (await visa.push(push_body() | change)).body["actionCode"] == "00"
    assert len(moved(await visa.entries())) == 2


async def test_the_duplicate_key_is_honoured_for_24_hours_and_not_longer(visa: VisaClient, clock: Clock) -> None:
    """S3: after 24 h the same five fields pay a second time; that is what the 23 h rule is for."""
    await visa.push(push_body())
    clock.ahead_seconds = DAY_SECONDS - 30
    assert (await visa.push(push_body())).body["actionCode"] == "94"
    clock.ahead_seconds = DAY_SECONDS + 30
    assert (await visa.push(push_body())).body["actionCode"] == "00"
    assert len(moved(await visa.entries())) == 2


async def test_fifty_at_once_with_the_same_fields_have_one_effect(visa: VisaClient) -> None:
    """P2: of any number of concurrent resends exactly one pays, the others are 94."""
    answers = await asyncio.gather(*(visa.push(push_body()) for _ in range(50)))
    codes = sorted(answer.body["actionCode"] for answer in answers)
    assert codes == ["00"] + ["94"] * 49
    assert len({answer.body["transactionIdentifier"] for answer in answers}) == 1
    assert len(moved(await visa.entries())) == 1


async def test_94_without_original_that_did_pay(visa: VisaClient) -> None:
    """S4: 94 without originalActionCode is ambiguous; here the query shows the payment."""
    answer = await visa.push(push_body(1, "tok_duplicate_94_paid"))
    assert answer.body["actionCode"] == "94"
    assert "originalActionCode" not in answer.body
    assert [row["actionCode"] for row in (await visa.query(push_body())).body] == ["00"]
    assert len(moved(await visa.entries())) == 1


async def test_94_without_original_that_did_not_pay(visa: VisaClient) -> None:
    """S4: the same answer, and nothing was paid; a resend says the same."""
    for _ in range(2):
        answer = await visa.push(push_body(1, "tok_decline_94"))
        assert answer.body["actionCode"] == "94"
        assert "originalActionCode" not in answer.body
    assert moved(await visa.entries()) == []


async def test_a_resend_while_the_original_is_in_flight_is_303(start: Start) -> None:
    """Same X-Client-Transaction-ID and details in flight: 303, Location, statusIdentifier; one effect."""
    visa = await start(latency_seconds=LONG_SECONDS)
    first = asyncio.create_task(visa.push(push_body(), X_Client_Transaction_ID="c1"))
    await eventually(visa.busy)
    twin = await visa.push(push_body(), X_Client_Transaction_ID="c1")
    assert twin.status == 303
    identifier = twin.body["statusIdentifier"]
    assert twin.headers["Location"] == f"{PUSH}/{identifier}"
    await visa.knobs(clock_ahead_seconds=LONG_SECONDS)
    assert (await first).body["actionCode"] == "00"
    assert (await visa.settled(f"{PUSH}/{identifier}")).body == (await first).body
    assert len(await visa.entries()) == 1


async def test_after_completion_the_client_id_alone_protects_nothing(visa: VisaClient) -> None:
    """303 is for what is in flight; afterwards only the five fields count, and new ones pay again."""
    await visa.push(push_body(1), X_Client_Transaction_ID="c1")
    assert (await visa.push(push_body(1), X_Client_Transaction_ID="c1")).body["actionCode"] == "94"
    assert (await visa.push(push_body(2), X_Client_Transaction_ID="c1")).body["actionCode"] == "00"
    assert len(moved(await visa.entries())) == 2


async def test_the_same_client_id_with_other_details_in_flight_is_another_payment(start: Start) -> None:
    """303 needs the same details too: a client id used for two payouts does not stop the second."""
    visa = await start(latency_seconds=0.2)
    answers = await asyncio.gather(*(visa.push(push_body(n), X_Client_Transaction_ID="c1") for n in (1, 2)))
    assert [answer.body["actionCode"] for answer in answers] == ["00", "00"]


async def test_a_time_out_of_one_millisecond_forces_a_202(visa: VisaClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """x-transaction-timeout-ms: 1 gives 202 and statusIdentifier; GET at once is 202, later 200 as the POST."""
    monkeypatch.setattr(operations, "FORCED_TIMEOUT_WORK_SECONDS", LONG_SECONDS)  # "at once" on a busy machine
    accepted = await visa.push(push_body(), X_Transaction_Timeout_MS="1")
    assert (accepted.status, set(accepted.body)) == (202, {"statusIdentifier"})
    identifier = accepted.body["statusIdentifier"]
    assert (await visa.status(identifier)).status == 202
    await visa.knobs(clock_ahead_seconds=LONG_SECONDS)
    settled = await visa.settled(f"{PUSH}/{identifier}")
    assert (settled.status, settled.body["actionCode"]) == (200, "00")
    assert (await visa.status(identifier)).body == settled.body
    assert len(await visa.entries()) == 1


async def test_work_that_outlasts_the_header_is_202_and_goes_on(start: Start) -> None:
    """X-Transaction-Timeout-MS: when exceeded 202, else 200; processing continues either way."""
    visa = await start(latency_seconds=0.4)
    accepted = await visa.push(push_body(1), X_Transaction_Timeout_MS="100")
    patient = await visa.push(push_body(2), X_Transaction_Timeout_MS="30000")
    assert (accepted.status, patient.status) == (202, 200)
    assert (await visa.settled(f"{PUSH}/{accepted.body['statusIdentifier']}")).body["actionCode"] == "00"
    assert len(moved(await visa.entries())) == 2


def test_patience_has_visas_default_and_maximum() -> None:
    """X-Transaction-Timeout-MS: default and maximum 30000; a greater value means no time-out."""
    assert operations.patience_seconds(30_000) == 30.0
    assert operations.patience_seconds(30_001) is None


async def test_a_malformed_header_is_400(visa: VisaClient) -> None:
    """X-Transaction-Timeout-MS is a number; X-Client-Transaction-ID has a bound."""
    answer = await visa.push(push_body(), X_Transaction_Timeout_MS="soon")
    assert (answer.status, answer.code) == (400, "3001")
    endless = await visa.push(push_body(), X_Client_Transaction_ID="c" * 129)
    assert (endless.status, endless.code) == (400, "3001")


async def test_the_older_form_of_202_is_the_bare_identifier(start: Start) -> None:
    """Two generations of 202 bodies: an object, or the identifier as text."""
    visa = await start(accepted_body="text")
    accepted = await visa.push(push_body(), X_Transaction_Timeout_MS="1")
    assert (accepted.status, accepted.encrypted) == (202, False)
    assert (await visa.settled(f"{PUSH}/{accepted.body}")).body["actionCode"] == "00"


async def test_the_status_url_is_good_for_24_hours(visa: VisaClient, clock: Clock) -> None:
    """GET statusIdentifier: repeatable for 24 hours, then 404, as is an unknown one."""
    accepted = await visa.push(push_body(), X_Transaction_Timeout_MS="1")
    identifier = accepted.body["statusIdentifier"]
    await visa.settled(f"{PUSH}/{identifier}")
    clock.ahead_seconds = DAY_SECONDS - 30
    assert (await visa.status(identifier)).status == 200
    clock.ahead_seconds = DAY_SECONDS + 30
    assert (await visa.status(identifier)).status == 404
    assert (await visa.status("1491819372_186_81_l73c003_VDP_ARM")).status == 404


async def test_a_client_that_leaves_does_not_undo_the_effect(start: Start) -> None:
    """S4: a client's time-out says nothing about the outcome."""
    visa = await start(latency_seconds=1.0)
    visa.visa.timeout = httpx.Timeout(5, read=0.1)
    with pytest.raises(httpx.ReadTimeout):
        await visa.push(push_body())
    await eventually(visa.entries)
    assert len(moved(await visa.entries())) == 1
