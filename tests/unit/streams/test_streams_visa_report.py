"""P6: all of Visa's report or none of it: spans, pages, repeats, ends, and a reason for whoever gets nothing."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered, BodyProblem, Exchange, Failed, FailureCause
from processors.visa.fields import RequestInvalid
from processors.visa.requests import VisaRequest
from processors.visa.transaction_report import REPORT_DAYS_BACK_MAX, REPORT_DAYS_MAX, REPORT_PAGE_ROWS
from streams import visa_report
from streams.visa_report import PAUSES_SECONDS, ReportUnavailable, fetched, spans

FIRST = date(2026, 3, 1)
CARD = "4957030420210462"
PLENTY_SECONDS = 3600.0


def member(number: int, day: date = FIRST) -> dict[str, Any]:
    return {
        "transactionState": "CRED VOUCHER",
        "retrievalReferenceNumber": f"{number:012d}",
        "systemsTraceAuditNumber": 100_000 + number,
        "acquiringBin": 408999,
        "transactionDateTime": f"{day}:120000",
    }


def page_of(*numbers: int) -> Answered:
    return Answered(200, body=[member(number) for number in numbers])


FULL = page_of(*range(REPORT_PAGE_ROWS))
EMPTY = page_of()


class Visa:
    """Answers in the order given, then with empty pages; hears what was asked and how long nobody asked."""

    def __init__(self, *answers: Exchange) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []
        self.pauses: list[float] = []

    async def send(self, request: VisaRequest, _: Deadline) -> Exchange:
        self.asked.append(dict(request.query))
        return self.answers.pop(0) if self.answers else EMPTY

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def references(self, last: date = FIRST, seconds: float = PLENTY_SECONDS) -> list[int]:
        rows = await fetched(self, FIRST, last, deadline_seconds=seconds, today=FIRST, sleep=self.sleep)
        return [int(row.retrieval_reference_number) for row in rows]

    async def why(self, last: date = FIRST, seconds: float = PLENTY_SECONDS) -> str:
        with pytest.raises(ReportUnavailable) as caught:
            await self.references(last, seconds)
        assert caught.value.why == str(caught.value)
        return caught.value.why


@given(st.dates(date(2020, 1, 1), date(2030, 1, 1)), st.integers(0, 130))
def test_spans_have_neither_gaps_nor_overlaps(first: date, days: int) -> None:
    """A day asked for twice costs calls, one left out loses payouts."""
    last = first + timedelta(days=days)
    pieces = list(spans(first, last))
    assert [begin + timedelta(days=n) for begin, end in pieces for n in range((end - begin).days + 1)] == [
        first + timedelta(days=n) for n in range(days + 1)
    ]
    assert all((end - begin).days < REPORT_DAYS_MAX for begin, end in pieces)


async def test_pages_are_read_until_one_is_not_full_in_every_span() -> None:
    """A page of exactly the limit is never the last; equal rows are one."""
    visa = Visa(FULL, page_of(200, 200, 0), page_of(300))
    assert await visa.references(FIRST + timedelta(days=6)) == [*range(REPORT_PAGE_ROWS), 200, 300]
    asked = [(query["fromDate"], query["toDate"], query["offset"]) for query in visa.asked]
    assert asked == [("01032026", "05032026", "1"), ("01032026", "05032026", "2"), ("06032026", "07032026", "1")]
    assert visa.pauses == []
    assert await Visa(FULL).references() == list(range(REPORT_PAGE_ROWS))


@pytest.mark.parametrize(
    "trouble",
    [
        Answered(429),
        Answered(500),
        Answered(503, body="busy"),
        Failed(bytes_sent=True, cause=FailureCause.TOTAL_TIMEOUT),
        Failed(bytes_sent=False, cause=FailureCause.CONNECT_FAILED),
        Failed(bytes_sent=True, cause=FailureCause.SERVER_DISCONNECTED),
    ],
)
async def test_a_page_is_asked_for_three_times_more_and_then_no_more(trouble: Exchange) -> None:
    """Asking moves nothing, and whoever waits wants an end."""
    patient = Visa(*[trouble] * 3, page_of(7))
    assert await patient.references() == [7]
    assert patient.pauses == list(PAUSES_SECONDS)
    assert [query["offset"] for query in patient.asked] == ["1"] * 4
    hopeless = Visa(*[trouble] * 9)
    assert "4 times in a row" in await hopeless.why()
    assert len(hopeless.asked) == 4


async def test_each_page_has_repeats_of_its_own() -> None:
    """A long list must not run out of them."""
    busy = Answered(503)
    visa = Visa(busy, busy, busy, FULL, busy, busy, busy, page_of(200))
    assert await visa.references() == [*range(REPORT_PAGE_ROWS), 200]


async def test_visa_says_when_as_far_as_the_deadline_goes() -> None:
    """S7: Retry-After counts; nobody sleeps beyond the end."""
    later = Answered(429, headers={"retry-after": "30"})
    visa = Visa(later, page_of(7))
    assert await visa.references() == [7]
    assert visa.pauses == [30.0]
    assert "HTTP 429, and the time given" in await Visa(later).why(seconds=20)
    assert "TOTAL_TIMEOUT" in await Visa(Failed(True, FailureCause.TOTAL_TIMEOUT)).why(seconds=0.5)


@pytest.mark.parametrize(
    ("exchange", "why"),
    [
        (Answered(401), "refuses our certificate"),
        (Answered(403), "refuses our certificate"),
        (Answered(400, body={"responseStatus": {"status": 400, "code": "9125"}}), "refuses our certificate"),
        (Answered(404), "this enrolment has no Reports API"),
        (Answered(400, body={"responseStatus": {"message": CARD}}), "refuses the days"),
        (Answered(204, body_problem=BodyProblem.EMPTY), "HTTP 204, EMPTY"),
        (Answered(302), "HTTP 302, no list"),
        (Answered(200, body_problem=BodyProblem.UNDECRYPTABLE), "UNDECRYPTABLE"),
        (Answered(200, body={"error": CARD}), "page 1 from 2026-03-01 cannot be read: report: is neither"),
        (Answered(200, body=[member(1) | {"transactionState": None}]), "row 1, transactionState: is missing"),
        (Answered(200, body=[member(1) | {"acquiringBin": CARD}]), "row 1, acquiringBin"),
        (Failed(bytes_sent=False, cause=FailureCause.DEADLINE_PASSED), "the time given is over"),
        (Failed(bytes_sent=False, cause=FailureCause.SERVER_CERTIFICATE_INVALID), "SERVER_CERTIFICATE_INVALID"),
        (Failed(bytes_sent=True, cause=FailureCause.CLIENT_CERTIFICATE_REFUSED), "payouts doctor"),
    ],
)
async def test_what_would_only_come_again_is_said_at_once(exchange: Exchange, why: str) -> None:
    """P6: the reason says what to do and quotes nothing; a list without a page is none."""
    visa = Visa(FULL, exchange)
    said = await visa.why()
    assert why.replace("page 1", "page 2") in said
    assert CARD not in said
    assert (len(visa.asked), visa.pauses) == (2, [])


async def test_pages_that_repeat_have_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were `offset` ignored, the list would be cut at the first page, or never end."""
    assert "page 2 repeats" in await Visa(FULL, FULL).why()
    monkeypatch.setattr(visa_report, "PAGES_MAX", 3)
    different = [page_of(*range(n, n + REPORT_PAGE_ROWS)) for n in range(9)]
    visa = Visa(*different)
    assert "more than 3 pages" in await visa.why()
    assert len(visa.asked) == 3
    assert "more than 3 pages" in await Visa().why(FIRST + timedelta(days=15))


@pytest.mark.parametrize(
    ("days", "field"),
    [
        (lambda: (FIRST, FIRST - timedelta(days=1)), "toDate"),
        (lambda: (FIRST - timedelta(days=REPORT_DAYS_BACK_MAX + 1), FIRST), "fromDate"),
    ],
)
async def test_days_that_visa_does_not_search_are_not_asked_for(days: Callable[[], Any], field: str) -> None:
    """Before any call."""
    visa = Visa()
    with pytest.raises(RequestInvalid) as caught:
        await fetched(visa, *days(), deadline_seconds=1, today=FIRST)
    assert (caught.value.field, visa.asked) == (field, [])
    oldest = FIRST - timedelta(days=REPORT_DAYS_BACK_MAX)
    assert await fetched(visa, oldest, oldest, deadline_seconds=1, today=FIRST) == []
