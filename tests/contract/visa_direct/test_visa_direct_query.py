"""Transaction query on the stand-in: the evidence that UNKNOWN ends by (S3, S5)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.contract.visa_direct.conftest import Clock
from tests.contract.visa_direct.visa_direct_client import (
    LONG_SECONDS,
    QUERY,
    VisaClient,
    eventually,
    funding,
    push_body,
    reverse_body,
)

Start = Callable[..., Awaitable[VisaClient]]


async def test_rows_have_the_default_fields(visa: VisaClient) -> None:
    """An array; transactionIdentifier is text here; date and time in GMT; CRED VOUCHER for an OCT."""
    pushed = await visa.push(push_body())
    answer = await visa.query(push_body())
    assert (answer.status, answer.encrypted) == (200, True)
    (row,) = answer.body
    assert row["statusCode"] == "COMPLETED"
    assert row["actionCode"] == "00"
    assert row["responseCode"] == "5"
    assert row["transactionIdentifier"] == str(pushed.body["transactionIdentifier"])
    assert row["approvalCode"] == pushed.body["approvalCode"]
    assert row["transactionType"] == "CRED VOUCHER"
    assert (row["systemsTraceAuditNumber"], row["retrievalReferenceNumber"]) == ("100001", "603112000000")
    day, month, year = row["transactionDate"].split("-")
    assert f"{year}-{month}-{day}T{row['transactionTime']}" == pushed.body["transmissionDateTime"][:19]
    assert row["amount"] == pytest.approx(124.05)


async def test_a_duplicate_is_a_row_of_its_own(visa: VisaClient) -> None:
    """S5: a 94 row carries originalActionCode and the same transactionIdentifier."""
    for _ in range(2):
        await visa.push(push_body())
    first, second = (await visa.query(push_body())).body
    assert (first["actionCode"], second["actionCode"], second["originalActionCode"]) == ("00", "94", "00")
    assert first["transactionIdentifier"] == second["transactionIdentifier"]


async def test_a_decline_is_completed_too(visa: VisaClient) -> None:
    """S5: COMPLETED is not approved; the action code says what happened."""
    await visa.push(push_body(1, "tok_decline_91"))
    (row,) = (await visa.query(push_body())).body
    assert (row["statusCode"], row["actionCode"]) == ("COMPLETED", "91")


async def test_what_visa_rejected_is_failed(visa: VisaClient) -> None:
    """S5: FAILED means received and rejected by Visa."""
    await visa.push(push_body(1, "tok_failed_96"))
    assert [row["statusCode"] for row in (await visa.query(push_body())).body] == ["FAILED"]


async def test_the_query_knows_bin_trace_number_and_reference_only(start: Start) -> None:
    """S1: two payments that differ in the terminal only cannot be told apart by the query."""
    visa = await start(acquirers={"408999": "840", "408998": "840"})
    other = push_body()["cardAcceptor"] | {"terminalId": "T2"}
    await visa.push(push_body(1))
    await visa.push(push_body(1, cardAcceptor=other))
    await visa.push(push_body(1, acquiringBin=408998))
    assert [row["actionCode"] for row in (await visa.query(push_body())).body] == ["00", "00"]
    assert len(await visa.entries()) == 3


async def test_by_transaction_identifier(visa: VisaClient) -> None:
    """acquiringBIN with transactionIdentifier finds original and duplicates."""
    pushed = await visa.push(push_body())
    await visa.push(push_body())
    identifier = str(pushed.body["transactionIdentifier"])
    answer = await visa.get(QUERY, acquiringBIN="408999", transactionIdentifier=identifier)
    assert [row["actionCode"] for row in answer.body] == ["00", "94"]


INCOMPLETE = [
    {},
    {"acquiringBIN": "408999"},
    {"acquiringBIN": "408999", "stan": "100001"},
    {"acquiringBIN": "408999", "rrn": "603112000000"},
    {"stan": "100001", "rrn": "603112000000"},
    {"acquiringBIN": "40899", "stan": "100001", "rrn": "603112000000"},
    {"acquiringBIN": "408999", "stan": "1", "rrn": "603112000000"},
    {"acquiringBIN": "408999", "transactionIdentifier": "1"},
    {"acquiringBIN": "408999", "stan": "100001", "rrn": "603112000000", "transactionStartDate": "today"},
]


async def test_incomplete_or_malformed_parameters_are_400_3001(visa: VisaClient) -> None:
    """acquiringBIN and either transactionIdentifier or both stan and rrn."""
    for parameters in INCOMPLETE:
        answer = await visa.get(QUERY, **parameters)
        assert (parameters, answer.status, answer.code) == (parameters, 400, "3001")


async def test_no_match_is_an_empty_array(visa: VisaClient) -> None:
    """S5: not found, in its first form, as Visa does not say which it is."""
    answer = await visa.query(push_body())
    assert (answer.status, answer.body) == (200, [])


async def test_no_match_is_404_if_so_set(start: Start) -> None:
    """S5: not found, in its second form."""
    visa = await start(query_no_match="404")
    assert (await visa.query(push_body())).status == 404


async def test_work_in_flight_is_in_progress_and_pending_after_a_202(start: Start) -> None:
    """S5: IN_PROGRESS and PENDING have no action code; then the row is COMPLETED."""
    visa = await start(latency_seconds=LONG_SECONDS)
    first = asyncio.create_task(visa.push(push_body(1)))
    await eventually(visa.busy)
    late = await visa.push(push_body(2), X_Transaction_Timeout_MS="100")
    assert late.status == 202
    (row,) = (await visa.query(push_body(1))).body
    assert row["statusCode"] == "IN_PROGRESS"
    assert "actionCode" not in row
    assert [row["statusCode"] for row in (await visa.query(push_body(2))).body] == ["PENDING"]
    await visa.knobs(clock_ahead_seconds=LONG_SECONDS)
    await first
    assert [row["statusCode"] for row in (await visa.query(push_body(1))).body] == ["COMPLETED"]


async def test_the_query_may_lag(start: Start, clock: Clock) -> None:
    """S5: a row may be invisible for a while, so not found proves nothing."""
    visa = await start(query_lag_seconds=30)
    await visa.push(push_body())
    assert (await visa.query(push_body())).body == []
    clock.ahead_seconds = 31
    assert len((await visa.query(push_body())).body) == 1


async def test_the_amount_may_come_later(start: Start, clock: Clock) -> None:
    """S5: amount may be absent for up to two hours."""
    visa = await start(query_amount_after_seconds=7200)
    await visa.push(push_body())
    assert "amount" not in (await visa.query(push_body())).body[0]
    clock.ahead_seconds = 7201
    assert "amount" in (await visa.query(push_body())).body[0]


async def test_rows_older_than_120_days_are_gone(visa: VisaClient, clock: Clock) -> None:
    """The query looks back 120 days."""
    await visa.push(push_body())
    clock.ahead_seconds = 119 * 86400
    assert len((await visa.query(push_body())).body) == 1
    clock.ahead_seconds = 121 * 86400
    assert (await visa.query(push_body())).body == []


async def test_pages_fields_dates_and_acceptor(visa: VisaClient) -> None:
    """limit (at most 10), offset, x-pagination, fields, caid, start and end date."""
    for _ in range(11):
        await visa.push(push_body())
    first = await visa.query(push_body())
    assert (len(first.body), first.headers["x-pagination"]) == (10, "true")
    rest = await visa.query(push_body(), offset="10", fields="actionCode,originalActionCode")
    assert rest.body == [{"actionCode": "94", "originalActionCode": "00"}]
    assert len((await visa.query(push_body(), limit="11", caid="ACME")).body) == 10
    assert len((await visa.query(push_body(), limit="3")).body) == 3
    assert (await visa.query(push_body(), caid="OTHER")).body == []
    assert (await visa.query(push_body(), transactionStartDate="01-01-2199:00:00:00")).body == []
    assert (await visa.query(push_body(), transactionEndDate="01-01-2001:00:00:00")).body == []


async def test_a_reversal_is_a_row_beside_its_aft(visa: VisaClient) -> None:
    """C4: they share trace number, reference and identifier; only the type tells SALES DRAFT from SALES REVERSAL."""
    await visa.fund(funding())
    body: dict[str, Any] = reverse_body()
    assert [row["transactionType"] for row in (await visa.query(body)).body] == ["SALES DRAFT"]
    await visa.reverse(body)
    rows = (await visa.query(body)).body
    assert [row["transactionType"] for row in rows] == ["SALES DRAFT", "SALES REVERSAL"]
    assert len({row["transactionIdentifier"] for row in rows}) == 1
