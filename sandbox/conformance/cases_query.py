"""The transaction query: the evidence by which an unknown outcome ends."""

import asyncio
import re
from typing import Final

from sandbox.conformance.cases_push import DAY_SECONDS, approved
from sandbox.conformance.client import QUERY, Body, Client, holds, same
from sandbox.conformance.suite import case

DEFAULT_FIELDS: Final = {
    "statusCode",
    "acquiringBin",
    "actionCode",
    "approvalCode",
    "responseCode",
    "transactionIdentifier",
    "transactionType",
    "retrievalReferenceNumber",
    "systemsTraceAuditNumber",
    "transactionDate",
    "transactionTime",
}


async def row_of(visa: Client, body: Body, **more: str) -> Body:
    rows = (await visa.query(body, **more)).body
    same("rows", len(rows), 1)
    row: Body = rows[0]
    return row


@case("F-075", "money")
async def what_a_query_needs(visa: Client) -> None:
    body = visa.push_body()
    identifier = str((await approved(visa, body))["transactionIdentifier"])
    stan, rrn = str(body["systemsTraceAuditNumber"]), str(body["retrievalReferenceNumber"])
    bin_ = visa.target.acquiring_bin
    for parameters in ({"stan": stan, "rrn": rrn}, {"transactionIdentifier": identifier}):
        same("status", (await visa.get(QUERY, acquiringBIN=bin_, **parameters)).status, 200)
        same("status without acquiringBIN", (await visa.get(QUERY, **parameters)).status, 400)
        same("status with a short BIN", (await visa.get(QUERY, acquiringBIN="40899", **parameters)).status, 400)
    for parameters in ({}, {"stan": stan}, {"rrn": rrn}, {"stan": "1", "rrn": rrn}, {"transactionIdentifier": "1"}):
        answer = await visa.get(QUERY, acquiringBIN=bin_, **parameters)
        same(f"status with {sorted(parameters)}", (answer.status, answer.code), (400, "3001"))


@case("F-076", "stand_in")
async def what_a_query_may_have(visa: Client) -> None:
    body = visa.push_body()
    await approved(visa, body)
    same("fields", set(await row_of(visa, body, fields="actionCode,amount")), {"actionCode", "amount"})
    for more, count in (
        ({"caid": "CONFORMANCE01"}, 1),
        ({"caid": "OTHER"}, 0),
        ({"requestType": "1"}, 1),
        ({"transactionStartDate": "01-01-2001:00:00:00"}, 1),
        ({"transactionStartDate": "01-01-2199:00:00:00"}, 0),
        ({"transactionEndDate": "01-01-2001:00:00:00"}, 0),
        ({"limit": "5", "offset": "0"}, 1),
        ({"offset": "1"}, 0),
    ):
        same(f"rows with {more}", len((await visa.query(body, **more)).body), count)
    same("status of a date in words", (await visa.query(body, transactionEndDate="today")).status, 400)


@case("F-077", "stand_in")
async def how_far_a_query_looks_back(visa: Client) -> None:
    body = visa.push_body()
    await approved(visa, body)
    for days, count in ((119, 1), (121, 0)):
        await visa.pass_time(days * DAY_SECONDS)
        same(f"rows after {days} days", len((await visa.query(body)).body), count)


@case("F-078", "money")
async def pages(visa: Client) -> None:
    body = visa.push_body()
    for _ in range(11):
        await visa.push(body)
    first = await visa.query(body)
    same("rows and header", (len(first.body), first.headers.get("x-pagination")), (10, "true"))
    same("rows with limit 11", len((await visa.query(body, limit="11")).body), 10)
    rest = await visa.query(body, offset="10")
    same("rows of the second page", len(rest.body), 1)


@case("F-079", "money")
async def the_fields_of_a_row(visa: Client) -> None:
    body = visa.push_body()
    answer = await approved(visa, body)
    row = await row_of(visa, body)
    holds("it has the default fields", set(row) >= DEFAULT_FIELDS)
    same("BIN", str(row["acquiringBin"]), visa.target.acquiring_bin)
    same("STAN", str(row["systemsTraceAuditNumber"]), str(body["systemsTraceAuditNumber"]))
    same("RRN", row["retrievalReferenceNumber"], body["retrievalReferenceNumber"])
    same("codes", (row["actionCode"], row["approvalCode"]), ("00", answer["approvalCode"]))


@case("F-080", "stand_in")
async def the_statuses(visa: Client) -> None:
    completed, failed = visa.push_body(), visa.push_body("tok_failed_96")
    await visa.push(completed)
    await visa.push(failed)
    found = [(await row_of(visa, body))["statusCode"] for body in (completed, failed)]
    same("statuses of what is done", found, ["COMPLETED", "FAILED"])
    await visa.faults({"operation": "query", "fault": "query_cancelled"})
    same("status of what was cancelled", (await row_of(visa, completed))["statusCode"], "CANCELLED")
    await visa.reset()
    body = visa.push_body()
    async with visa.in_flight(body, 1.0) as task:
        row = await row_of(visa, body)
        same("in flight", (row["statusCode"], "actionCode" in row), ("IN_PROGRESS", False))
        late = visa.push_body()
        same("status", (await visa.push(late, X_Transaction_Timeout_MS="50")).status, 202)
        same("after a 202", (await row_of(visa, late))["statusCode"], "PENDING")
        await asyncio.gather(task)


@case("F-081", "money")
async def a_decline_is_completed(visa: Client) -> None:
    body = visa.push_body("4957030420210496")
    await visa.push(body)
    row = await row_of(visa, body)
    same("status and code", (row["statusCode"], row["actionCode"]), ("COMPLETED", "65"))


@case("F-082", "stand_in")
async def the_amount_comes_later(visa: Client) -> None:
    body = visa.push_body()
    await visa.turn(query_amount_after_seconds=7200)
    await approved(visa, body)
    holds("there is no amount at first", "amount" not in await row_of(visa, body, fields="actionCode,amount"))
    await visa.turn(query_amount_after_seconds=7200, clock_ahead_seconds=7260)
    visa.ahead_seconds = 7260
    same("amount", (await row_of(visa, body, fields="amount"))["amount"], 124.05)


@case("F-083", "stand_in")
async def the_types(visa: Client) -> None:
    body = visa.push_body()
    await approved(visa, body)
    same("type of a push", (await row_of(visa, body))["transactionType"], "CRED VOUCHER")
    aft = await visa.fund()
    reversal = visa.reverse_body(aft)
    same("type of a pull", (await row_of(visa, reversal))["transactionType"], "SALES DRAFT")
    await visa.post("/visadirect/fundstransfer/v1/reversefundstransactions", reversal)
    types = [row["transactionType"] for row in (await visa.query(reversal)).body]
    same("types after the reversal", types, ["SALES DRAFT", "SALES REVERSAL"])


@case("F-084", "money")
async def the_row_of_a_duplicate(visa: Client) -> None:
    body = visa.push_body()
    await approved(visa, body)
    await visa.push(body)
    rows = (await visa.query(body)).body
    codes = [(row["actionCode"], row.get("originalActionCode")) for row in rows]
    same("codes", codes, [("00", None), ("94", "00")])
    same("identifiers", len({row["transactionIdentifier"] for row in rows}), 1)


@case("F-085", "stand_in")
async def further_fields_of_a_row(visa: Client) -> None:
    wanted = {"settlementDate", "settlementTime", "amountInTransactionCurrency", "accountNumberMasked"}
    names = ",".join(["rejectReasonCode", "rejectReasonText", *sorted(wanted)])
    paid, failed = visa.push_body(), visa.push_body("tok_failed_96")
    await visa.push(paid)
    await visa.push(failed)
    row = await row_of(visa, paid, fields=names)
    same("of what was paid", set(row), wanted)
    holds(
        "the card number is masked", "4957030420210462" not in str(row) and row["accountNumberMasked"].endswith("0462")
    )
    same(
        "of what failed",
        set(await row_of(visa, failed, fields=names)) & {"rejectReasonCode", "settlementDate"},
        {"rejectReasonCode"},
    )
    holds("nobody gets them unasked", not (wanted & set(await row_of(visa, paid))))


@case("F-086", "money")
async def the_time_of_a_row(visa: Client) -> None:
    body = visa.push_body()
    sent_at = (await approved(visa, body))["transmissionDateTime"]
    row = await row_of(visa, body)
    holds("date is DD-MM-YYYY", bool(re.fullmatch(r"\d\d-\d\d-\d{4}", row["transactionDate"])))
    day, month, year = row["transactionDate"].split("-")
    same("the answer's time, to the minute", f"{year}-{month}-{day}T{row['transactionTime'][:5]}", sent_at[:16])
