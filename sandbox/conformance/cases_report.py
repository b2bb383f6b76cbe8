"""The transaction report. When it lists a push is not published, so cases that push ask the stand-in alone."""

import datetime
import itertools
from typing import Final

from sandbox.conformance.cases_push import approved
from sandbox.conformance.client import Answer, Body, Client, holds, same
from sandbox.conformance.suite import case

REPORT: Final = "/visadirect/reports/v1/transactiondata"
PAGE_ROWS: Final = 100
FIELDS: Final = "amountInTransactionCurrency,transactionStateCode"


async def asked(visa: Client, first: int, last: int, **more: str) -> Answer:
    """The report of some days, counted from today."""
    today = datetime.datetime.fromtimestamp(visa.now(), datetime.UTC).date()
    days = [f"{today + datetime.timedelta(days=ahead):%d%m%Y}" for ahead in (first, last)]
    return await visa.get(REPORT, fromDate=days[0], toDate=days[1], **more)


async def rows_of(visa: Client, body: Body) -> list[Body]:
    """What is listed under the numbers of a body, from yesterday on: midnight may have passed."""
    found: list[Body] = []
    for page in itertools.count(1):
        rows = (await asked(visa, -1, 0, fields=FIELDS, offset=str(page))).body
        found += [row for row in rows if row["retrievalReferenceNumber"] == body["retrievalReferenceNumber"]]
        if len(rows) < PAGE_ROWS:
            break
    return [row for row in found if row["systemsTraceAuditNumber"] == int(body["systemsTraceAuditNumber"])]


@case("F-138")
async def which_dates_a_report_needs(visa: Client) -> None:
    same("status with both", (await asked(visa, -1, 0)).status, 200)
    day = f"{datetime.datetime.fromtimestamp(visa.now(), datetime.UTC):%d%m%Y}"
    for what, parameters in (
        ("no date", {}),
        ("fromDate alone", {"fromDate": day}),
        ("toDate alone", {"toDate": day}),
        ("a date in words", {"fromDate": "today", "toDate": day}),
        ("the year first", {"fromDate": day, "toDate": "2026-03-01"}),
    ):
        same(f"status with {what}", (await visa.get(REPORT, **parameters)).status, 400)


@case("F-139")
async def how_many_days_a_report_has(visa: Client) -> None:
    for first, last, status in ((-4, 0, 200), (-5, 0, 400), (-119, -119, 200), (-122, -122, 400), (0, -1, 400)):
        same(f"status from {first} to {last}", (await asked(visa, first, last)).status, status)


@case("F-140", "stand_in")
async def a_push_is_listed_once(visa: Client) -> None:
    body = visa.push_body()
    identifier = str((await approved(visa, body))["transactionIdentifier"])
    await visa.push(body)
    rows = await rows_of(visa, body)
    same("rows of a push and its repeat", len(rows), 1)
    same("state", (rows[0]["transactionState"], rows[0]["transactionStateCode"]), ("CRED VOUCHER", "06"))
    same("identifier", str(rows[0]["transactionIdentifier"]), identifier)
    same("amounts", (rows[0]["amount"], rows[0]["amountInTransactionCurrency"]), (124.05, 124.05))
    holds("the card number is masked", "4957030420210462" not in str(rows[0]))


@case("F-141", "stand_in")
async def a_decline_is_not_listed(visa: Client) -> None:
    paid, declined = visa.push_body(), visa.push_body("4957030420210496")
    await approved(visa, paid)
    await visa.push(declined)
    same("rows of both", [len(await rows_of(visa, body)) for body in (paid, declined)], [1, 0])


@case("F-142", "stand_in")
async def a_pull_and_its_reversal_are_listed(visa: Client) -> None:
    reversal = visa.reverse_body(await visa.fund())
    await visa.post("/visadirect/fundstransfer/v1/reversefundstransactions", reversal)
    states = [row["transactionState"] for row in await rows_of(visa, reversal)]
    same("states", states, ["SALES DRAFT", "SALES REVERSAL"])


@case("F-143", "stand_in")
async def a_report_has_pages(visa: Client) -> None:
    for _ in range(3):
        await approved(visa, visa.push_body())
    whole = (await asked(visa, -1, 0, limit="3")).body
    pages = [(await asked(visa, -1, 0, limit="1", offset=str(page))).body for page in (1, 2, 3)]
    same("rows of three pages of one", [row for page in pages for row in page], whole)
    same("rows without a limit", len((await asked(visa, -1, 0)).body) <= PAGE_ROWS, True)
