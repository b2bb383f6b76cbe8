"""The whole of Visa's transaction report for a range of days, page by page, or the reason why there is none.

    rows = await fetched(client, first, last, deadline_seconds=600)

All or nothing: a list with a page missing would say that Visa does not know payouts that it has paid. Ask for days that
are over: on one that goes on, rows may move from page to page while they are read.

Nothing here changes anything, so a page is simply asked for again where time may help; by hand, as no library of ours
repeats calls. These questions take no place among the calls of a worker (`visa_rate`): they are an operator's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final, Protocol

from processors.payout.outcome import OutcomeKind, Refusal
from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered, Exchange, Failed, FailureCause
from processors.visa.fields import RequestInvalid
from processors.visa.outcome import About, refusal_of
from processors.visa.requests import VisaRequest
from processors.visa.transaction_report import (
    REPORT_DAYS_BACK_MAX,
    REPORT_DAYS_MAX,
    REPORT_PAGE_ROWS,
    ReportRow,
    ReportUnreadable,
    rows_of_reply,
    transaction_report,
)

PAGES_MAX: Final = 2_000
"""In one list: two hundred thousand rows, some hundred megabytes. Whoever has more asks for fewer days at a time."""
PAUSES_SECONDS: Final = (1.0, 4.0, 15.0)
"""Before the three repeats of a page: past a hiccup, a restart, and the window of a rate limit. A longer Retry-After
counts instead, as far as the deadline allows."""
_MAY_PASS: Final = frozenset(
    {
        FailureCause.POOL_TIMEOUT,
        FailureCause.CONNECT_FAILED,
        FailureCause.CONNECT_TIMEOUT,
        FailureCause.WRITE_FAILED,
        FailureCause.WRITE_TIMEOUT,
        FailureCause.READ_FAILED,
        FailureCause.READ_TIMEOUT,
        FailureCause.SERVER_DISCONNECTED,
        FailureCause.TOTAL_TIMEOUT,
    }
)
_REFUSED: Final = {
    Refusal.CREDENTIALS: "Visa refuses our certificate, user id, password or key id: `payouts doctor` tells more",
    Refusal.WRONG_ENDPOINT: "this enrolment has no Reports API; add it at Visa, or take the file that Visa offers",
    Refusal.REQUEST_INVALID: "Visa refuses the days or the page asked for",
}


class ReportUnavailable(Exception):
    """There is no complete report. `why` says what to do, and quotes nothing of an answer."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Sender(Protocol):
    """What makes one call: `VisaDirectClient`, or `ClientSource` before it."""

    async def send(self, request: VisaRequest, deadline: Deadline) -> Exchange:
        """Make the call, to be over before `deadline`. Never raises for what the network or Visa does."""


async def fetched(
    client: Sender,
    first: date,
    last: date,
    *,
    deadline_seconds: float,
    today: date | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[ReportRow]:
    """Every different row of the days from `first` to `last`, both included, in Visa's order, the oldest days first.

    `deadline_seconds` is for all of it; `today` is the day in UTC if not given. Raises RequestInvalid for days that
    cannot be asked for, before any call, and ReportUnavailable.
    """
    _check_days(first, last, today or datetime.now(UTC).date())
    reader = _Reader(client, Deadline.after(deadline_seconds), sleep)
    for begin, end in spans(first, last):
        await reader.read(begin, end)
    return list(reader.rows)


def spans(first: date, last: date) -> Iterator[tuple[date, date]]:
    """The days in pieces that Visa reports on at once, without a gap or an overlap."""
    begin = first
    while begin <= last:
        end = min(begin + timedelta(days=REPORT_DAYS_MAX - 1), last)
        yield begin, end
        begin = end + timedelta(days=1)


def _check_days(first: date, last: date, today: date) -> None:
    if last < first:
        raise RequestInvalid("toDate", "is before fromDate")
    if today - first > timedelta(days=REPORT_DAYS_BACK_MAX):
        raise RequestInvalid("fromDate", f"is more than {REPORT_DAYS_BACK_MAX} days ago; Visa searches no further back")


@dataclass(slots=True, eq=False)
class _Reader:
    """What was read so far, and how much may still be."""

    client: Sender
    deadline: Deadline
    sleep: Callable[[float], Awaitable[None]]
    rows: dict[ReportRow, None] = field(default_factory=dict)
    """Each once, in order."""
    pages: int = 0

    async def read(self, first: date, last: date) -> None:
        """All pages of at most five days. Raises ReportUnavailable."""
        page = 1
        while True:
            rows = await self._page(first, last, page)
            known = len(self.rows)
            self.rows.update(dict.fromkeys(rows))
            if len(rows) < REPORT_PAGE_ROWS:
                return
            if len(self.rows) == known:
                # Were `offset` no number of a page, this would go on for ever, or end too early.
                raise ReportUnavailable(f"page {page} repeats what came before it: the end of the list cannot be told")
            page += 1

    async def _page(self, first: date, last: date, page: int) -> tuple[ReportRow, ...]:
        self.pages += 1
        if self.pages > PAGES_MAX:
            raise ReportUnavailable(f"it has more than {PAGES_MAX} pages; ask for fewer days at a time")
        exchange = await self._answer(transaction_report(first, last, page=page))
        try:
            return rows_of_reply(exchange.body)
        except ReportUnreadable as error:
            raise ReportUnavailable(f"page {page} from {first} cannot be read: {error}") from error

    async def _answer(self, request: VisaRequest) -> Answered:
        exchange = await self.client.send(request, self.deadline)
        for pause in PAUSES_SECONDS:
            trouble = _passing_trouble(exchange)
            if trouble is None:
                break
            await self._pause(max(pause, _retry_after_seconds(exchange)), trouble)
            exchange = await self.client.send(request, self.deadline)
        return _usable(exchange)

    async def _pause(self, seconds: float, trouble: str) -> None:
        if seconds >= self.deadline.remaining_seconds():
            raise ReportUnavailable(f"{trouble}, and the time given does not last for another try")
        await self.sleep(seconds)


def _passing_trouble(exchange: Exchange) -> str | None:
    """What time may mend; None for an answer, and for what would only come again."""
    if isinstance(exchange, Failed):
        return f"Visa does not answer ({exchange.cause})" if exchange.cause in _MAY_PASS else None
    return f"Visa answers HTTP {exchange.status}" if exchange.status == 429 or exchange.status >= 500 else None


def _retry_after_seconds(exchange: Exchange) -> float:
    if isinstance(exchange, Failed):
        return 0.0
    return About(exchange).http(OutcomeKind.REFUSED).retry_after_seconds or 0.0


def _usable(exchange: Exchange) -> Answered:
    """The answer, if it is one. Raises ReportUnavailable."""
    trouble = _passing_trouble(exchange)
    if trouble is not None:
        raise ReportUnavailable(f"{trouble}, {len(PAUSES_SECONDS) + 1} times in a row; try later")
    if isinstance(exchange, Failed):
        raise ReportUnavailable(_why_no_call(exchange))
    refused = _REFUSED.get(refusal_of(exchange) or Refusal.NOT_CONNECTED)
    if refused is not None:
        raise ReportUnavailable(f"{refused} (HTTP {exchange.status})")
    if exchange.status != 200 or exchange.body_problem is not None:
        raise ReportUnavailable(
            f"the answer cannot be read: HTTP {exchange.status}, {exchange.body_problem or 'no list'}"
        )
    return exchange


def _why_no_call(failure: Failed) -> str:
    if failure.cause == FailureCause.DEADLINE_PASSED:
        return "the time given is over"
    return f"no connection to Visa can be made or used ({failure.cause}): `payouts doctor` tells more"
