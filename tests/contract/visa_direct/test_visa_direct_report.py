"""The transaction report on the stand-in: which days it takes, and that it lists what moved money and nothing else."""

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.contract.visa_direct.conftest import Clock
from tests.contract.visa_direct.visa_direct_client import (
    APPROVED_CARD,
    Answer,
    VisaClient,
    adjustment_body,
    funding,
    push_body,
    reverse_body,
)

REPORT = "/visadirect/reports/v1/transactiondata"
ROWS_A_PAGE = 100
DAY = timedelta(days=1)
Start = Callable[..., Awaitable[VisaClient]]


def today() -> date:
    return datetime.now(UTC).date()


async def asked(visa: VisaClient, first: date, last: date, **more: str) -> Answer:
    return await visa.get(REPORT, fromDate=f"{first:%d%m%Y}", toDate=f"{last:%d%m%Y}", **more)


async def listed(visa: VisaClient, **more: str) -> list[dict[str, Any]]:
    """Around midnight a push may be yesterday's."""
    answer = await asked(visa, today() - DAY, today() + DAY, **more)
    assert (answer.status, answer.encrypted) == (200, True)
    rows: list[dict[str, Any]] = answer.body
    return rows


async def test_a_push_is_listed_with_its_numbers_and_its_amount(visa: VisaClient) -> None:
    """A bare array; identifier and RRN are text, STAN, BIN and the amount in US dollars are numbers."""
    pushed = await visa.push(push_body(1, APPROVED_CARD))
    (row,) = await listed(visa)
    at = datetime.fromisoformat(pushed.body["transmissionDateTime"])
    assert row == {
        "settlementDateTime": f"{at:%Y-%m-%d:%H%M%S}",
        "approvalCode": pushed.body["approvalCode"],
        "cardAcceptorIdCode": "ACME",
        "transactionCurrencyCode": "840",
        "transactionIdentifier": str(pushed.body["transactionIdentifier"]),
        "amount": 124.05,
        "acquiringBin": 408999,
        "retrievalReferenceNumber": "603112000000",
        "systemsTraceAuditNumber": 100001,
        "processingDate": f"{at:%Y-%m-%d}",
        "accountNumberMasked": "XXXXXXXXXXXX0462",
        "reasonCode": "NOT APPLICABLE",
        "transactionDateTime": f"{at:%Y-%m-%d:%H%M%S}",
        "transactionState": "CRED VOUCHER",
    }
    names = {"amountInTransactionCurrency": 124.05, "transactionStateCode": "06", "reasonCodeValue": "NOT APPLICABLE"}
    assert await listed(visa, fields=",".join([*names, "cardType"])) == [row | names]


async def test_only_what_moved_money_is_listed(visa: VisaClient) -> None:
    """P2: a decline, a rejection and a duplicate are in the query, not in the report."""
    for number, recipient in enumerate(("tok_decline_05", "tok_failed_96", "tok_approve_1", "tok_approve_1")):
        await visa.push(push_body(min(number, 2), recipient))
    assert [row["systemsTraceAuditNumber"] for row in await listed(visa)] == [100002]
    assert len(await visa.entries()) == 4


async def test_amounts_in_dollars_are_those_of_transactions_in_dollars(visa: VisaClient) -> None:
    """Visa derives the others from a rate that nobody has here."""
    await visa.push(push_body(1, transactionCurrencyCode="GBP"))
    (row,) = await listed(visa, fields="amountInTransactionCurrency")
    assert "amount" not in row
    assert (row["transactionCurrencyCode"], row["amountInTransactionCurrency"]) == ("826", 124.05)


async def test_a_pull_and_what_handed_it_back(visa: VisaClient) -> None:
    """C4: both ways back are SALES REVERSAL; one that was refused is not listed."""
    for number, recipient in ((1, "tok_approve_7"), (2, APPROVED_CARD)):
        assert (await visa.fund(funding(number, recipient=recipient))).status_code == 201
    assert (await visa.reverse(reverse_body(1))).body["actionCode"] == "00"
    assert (await visa.adjust(adjustment_body(2))).body["actionCode"] == "00"
    assert (await visa.adjust(adjustment_body(3))).body["actionCode"] != "00"
    rows = await listed(visa, fields="transactionStateCode")
    assert [(row["transactionState"], row["transactionStateCode"]) for row in rows] == [
        ("SALES DRAFT", "05"),
        ("SALES DRAFT", "05"),
        ("SALES REVERSAL", "25"),
        ("SALES REVERSAL", "25"),
    ]
    identifiers = [row["transactionIdentifier"] for row in rows]
    assert identifiers[:2] == identifiers[2:]


async def test_pages_have_numbers(visa: VisaClient) -> None:
    """A hundred rows unless fewer are asked for; a page beyond the end is empty."""
    for number in range(ROWS_A_PAGE + 5):
        await visa.push(push_body(number))
    first, second, third = [await listed(visa, offset=str(page)) for page in (1, 2, 3)]
    assert [len(first), len(second), len(third)] == [ROWS_A_PAGE, 5, 0]
    assert [row["systemsTraceAuditNumber"] for row in first + second] == [100_000 + n for n in range(ROWS_A_PAGE + 5)]
    assert await listed(visa) == first
    assert await listed(visa, limit="7", offset="2") == first[7:14]
    assert len(await listed(visa, limit="101")) == ROWS_A_PAGE


async def test_days_are_the_transactions_own(visa: VisaClient, clock: Clock) -> None:
    """Five at once, none further back than 120; both ends count."""
    now = datetime.now(UTC)  # no midnight between the push and the questions
    clock.ahead_seconds = (now.replace(hour=12, minute=0, second=0) - now).total_seconds()
    pushed = await visa.push(push_body())
    day = datetime.fromisoformat(pushed.body["transmissionDateTime"]).date()
    for first, last, count in ((0, 0, 1), (-4, 0, 1), (0, 4, 1), (1, 5, 0), (-5, -1, 0)):
        answer = await asked(visa, day + first * DAY, day + last * DAY)
        assert (first, last, answer.status, len(answer.body)) == (first, last, 200, count)
    clock.ahead_seconds = 120 * 86400
    oldest = await asked(visa, day, day)
    assert (oldest.status, len(oldest.body)) == (200, 1)
    clock.ahead_seconds = 121 * 86400
    assert (await asked(visa, day, day)).status == 400


REFUSED: list[dict[str, str]] = [
    {},
    {"fromDate": "01032026"},
    {"toDate": "01032026"},
    {"fromDate": "2026-03-01", "toDate": "2026-03-01"},
    {"fromDate": "30022026", "toDate": "01032026"},
    {"fromDate": "03012026", "toDate": "02312026"},
    {"fromDate": "today", "toDate": "today"},
]


@pytest.mark.parametrize("days", [(0, 5), (0, -1), (-121, -120)])
async def test_days_that_are_not_reported(visa: VisaClient, days: tuple[int, int]) -> None:
    """More than five, none, too long ago."""
    answer = await asked(visa, today() + days[0] * DAY, today() + days[1] * DAY)
    assert (answer.status, answer.code) == (400, "3001")


async def test_parameters_that_are_missing_or_malformed_are_400_3001(visa: VisaClient) -> None:
    """As everywhere."""
    for parameters in REFUSED:
        answer = await visa.get(REPORT, **parameters)
        assert (parameters, answer.status, answer.code) == (parameters, 400, "3001")
    for parameters in ({"offset": "0"}, {"offset": "x"}, {"limit": "0"}, {"limit": "-1"}):
        answer = await asked(visa, today(), today(), **parameters)
        assert (parameters, answer.status, answer.code) == (parameters, 400, "3001")


async def test_a_report_can_fail_like_any_call(visa: VisaClient) -> None:
    """B13: and belongs to no payout."""
    for fault, status in (("429", 429), ("401", 401), ("404", 404), ("503", 503)):
        await visa.faults({"operation": "report", "fault": fault, "times": 1})
        assert (await asked(visa, today(), today())).status == status
        assert (await asked(visa, today(), today())).status == 200
    refused = await visa.admin.put(
        "/sandbox/faults", json={"rules": [{"operation": "report", "fault": "503", "sender_reference": "R1"}]}
    )
    assert refused.status_code == 400
    await visa.faults()  # written after the lines of the log before it
    assert [line["operation"] for line in await visa.requests()] == ["report"] * 8
