"""Our client's report against the stand-in, over TLS and message encryption: what was paid is listed once (P2, S1)."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import pytest

from processors.visa.deadline import Deadline
from processors.visa.transaction_report import REPORT_PAGE_ROWS, Movement, ReportRow, transaction_report
from processors.visa.transport import VisaDirectClient
from streams.visa_report import PAUSES_SECONDS, ReportUnavailable, fetched
from tests.contract.visa_direct.test_visa_direct_our_client import ADJUST, IDENTITY, PULL, PUSH, client_of
from tests.contract.visa_direct.visa_direct_client import VisaClient, push_body

PLENTY_SECONDS = 60.0
DAY = timedelta(days=1)


@pytest.fixture
async def ours(visa: VisaClient) -> AsyncIterator[VisaDirectClient]:
    async with client_of(visa) as client:
        yield client


def today() -> date:
    return datetime.now(UTC).date()


async def reports_asked_for(visa: VisaClient) -> int:
    """The log is written behind the answers; a new fault plan is not, and is written after it."""
    await visa.faults()
    return sum(line["operation"] == "report" for line in await visa.requests())


async def at_once(_: float) -> None:
    """No pause."""


async def report(ours: VisaDirectClient, days: int = 1) -> list[ReportRow]:
    """Of yesterday, today and tomorrow, or of more: around midnight a push may be yesterday's."""
    return await fetched(ours, today() - days * DAY, today() + DAY, deadline_seconds=PLENTY_SECONDS, sleep=at_once)


async def test_a_push_is_in_the_report_with_its_numbers_and_its_amount(
    visa: VisaClient, ours: VisaDirectClient
) -> None:
    """S1: STAN and RRN of the identity, the amount in minor units, Visa's own identifier."""
    sent = await ours.send(PUSH, Deadline.after(PLENTY_SECONDS))
    (entry,) = await visa.entries()
    at = datetime.fromisoformat(entry["at"]).astimezone(UTC)
    (row,) = await report(ours)
    assert row == ReportRow(
        movement=Movement.PUSH,
        state="CRED VOUCHER",
        transaction_id=entry["transaction_identifier"],
        systems_trace_audit_number=IDENTITY.systems_trace_audit_number,
        retrieval_reference_number=IDENTITY.retrieval_reference_number,
        acquiring_bin="408999",
        card_acceptor_id="PAYOUTS01",
        amount_minor=2500,
        currency="USD",
        transaction_date=at.date(),
        processing_date=at.date(),
        reason=None,
        transaction_time=f"{at:%H%M%S}",
        approval_code=entry["approval_code"],
    )
    assert "0462" not in repr((row, sent))


async def test_a_declined_push_is_not_in_it(visa: VisaClient, ours: VisaDirectClient) -> None:
    """P2: whatever is in it has moved money."""
    assert (await visa.push(push_body(1, "tok_decline_05"))).body["actionCode"] == "05"
    assert await report(ours) == []


async def test_every_currency_in_its_own_minor_units(visa: VisaClient, ours: VisaDirectClient) -> None:
    """K7: through JSON, encryption and back."""
    for number, (amount, currency) in enumerate((("124", "JPY"), ("124.050", "KWD"), ("124.05", "GBP"))):
        await visa.push(push_body(number, amount=amount, transactionCurrencyCode=currency))
    found = [(row.amount_minor, row.currency) for row in await report(ours)]
    assert found == [(124, "JPY"), (124_050, "KWD"), (12_405, "GBP")]


async def test_a_pull_and_its_adjustment_are_told_apart(visa: VisaClient, ours: VisaDirectClient) -> None:
    """C4: what took money and what gave it back."""
    assert (await visa.fund(PULL)).status_code == 201
    await ours.send(ADJUST, Deadline.after(PLENTY_SECONDS))
    rows = await report(ours)
    assert [row.movement for row in rows] == [Movement.PULL, Movement.PULL_REVERSED]
    assert len({row.transaction_id for row in rows}) == 1


async def test_more_than_a_page_and_more_than_five_days(visa: VisaClient, ours: VisaDirectClient) -> None:
    """Every row once, over three spans of days."""
    count = REPORT_PAGE_ROWS + 5
    for number in range(count):
        await visa.push(push_body(number))
    rows = await report(ours, days=12)
    assert [row.systems_trace_audit_number for row in rows] == [100_000 + number for number in range(count)]
    assert await reports_asked_for(visa) == 4


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset_before_effect"])
async def test_a_page_that_fails_is_asked_for_again(visa: VisaClient, ours: VisaDirectClient, fault: str) -> None:
    """Three times, then the list is not to be had."""
    await ours.send(PUSH, Deadline.after(PLENTY_SECONDS))
    await visa.faults({"operation": "report", "fault": fault, "times": len(PAUSES_SECONDS)})
    assert len(await report(ours)) == 1
    await visa.faults({"operation": "report", "fault": fault})
    with pytest.raises(ReportUnavailable, match="4 times in a row"):
        await report(ours)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("401", "refuses our certificate"),
        ("403", "refuses our certificate"),
        ("404", "no Reports API"),
        ("400", "refuses the days"),
        ("undecryptable_body", "UNDECRYPTABLE"),
        ("malformed_body", "NOT_JSON"),
    ],
)
async def test_what_would_only_come_again_is_a_reason(
    visa: VisaClient, ours: VisaDirectClient, fault: str, why: str
) -> None:
    """One call, one reason, and never an empty list."""
    await visa.faults({"operation": "report", "fault": fault})
    with pytest.raises(ReportUnavailable, match=why):
        await report(ours)
    assert await reports_asked_for(visa) == 1


async def test_a_silent_visa_ends_with_the_time_given(visa: VisaClient, ours: VisaDirectClient) -> None:
    """Whoever waits has an end."""
    await visa.faults({"operation": "report", "fault": "silence_before_effect", "seconds": 3})
    with pytest.raises(ReportUnavailable, match="time given"):
        await fetched(ours, today(), today(), deadline_seconds=0.5)


async def test_a_question_that_our_builder_refuses_is_refused_by_the_stand_in_too(
    visa: VisaClient, ours: VisaDirectClient
) -> None:
    """The longest span that we ask for is the longest that it takes."""
    longest = transaction_report(today() - 4 * DAY, today(), page=1)
    exchange = await ours.send(longest, Deadline.after(PLENTY_SECONDS))
    assert exchange.status == 200  # type: ignore[union-attr]
    days = {"fromDate": f"{today() - 5 * DAY:%d%m%Y}", "toDate": f"{today():%d%m%Y}"}
    assert (await visa.get(longest.path, **days)).status == 400
