"""Adjustments on the stand-in: hand an AFT back at any age, and nothing stops a second one (C1, C3, S3)."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.visa_direct.store import ENTRY_COLUMNS, Store
from tests.contract.visa_direct.conftest import Clock
from tests.contract.visa_direct.visa_direct_client import (
    ADJUSTMENT,
    APPROVED_CARD,
    VisaClient,
    adjustment_body,
    eventually,
    funding,
    reverse_body,
)


async def fund(visa: VisaClient, **changes: Any) -> None:
    response = await visa.fund(funding(**{"recipient": APPROVED_CARD, **changes}))
    assert response.status_code == 201, response.text


async def moved(visa: VisaClient) -> list[dict[str, Any]]:
    return [entry for entry in await visa.entries() if entry["operation"] == "adjustment" and entry["money_moved"]]


async def test_an_adjustment_names_its_aft_by_the_identifier_and_has_numbers_of_its_own(
    visa: VisaClient, clock: Clock
) -> None:
    """C2: a day and more after the pull; Visa's OpenAPI: other STAN and RRN, same transactionIdentifier."""
    await fund(visa)
    clock.ahead_seconds = 40 * 24 * 3600
    answer = await visa.adjust(adjustment_body())
    assert (answer.status, answer.body["actionCode"]) == (200, "00")
    assert answer.body["transactionIdentifier"] == int(funding()["transactionIdentifier"])
    assert answer.body["dateAndTimeTransmission"].endswith("Z")
    aft, adjustment = await visa.entries()
    for name in ("transaction_identifier", "amount", "currency", "recipient_fingerprint", "acquiring_bin"):
        assert aft[name] == adjustment[name]
    assert (aft["stan"], aft["rrn"]) != (adjustment["stan"], adjustment["rrn"])
    assert adjustment["sender_reference"] == adjustment_body()["senderReference"]


async def test_a_repeat_is_a_second_effect_that_the_ledger_shows(visa: VisaClient) -> None:
    """S3: no duplicate key, not even for what is still in flight; two entries of one transaction_identifier."""
    await fund(visa)
    await visa.faults({"operation": "adjustment", "fault": "slow", "seconds": 0.2})
    repeats = (visa.adjust(adjustment_body(), X_Client_Transaction_ID="same") for _ in range(3))
    answers = await asyncio.gather(*repeats)
    assert [answer.body["actionCode"] for answer in answers] == ["00"] * 3
    assert {entry["transaction_identifier"] for entry in await moved(visa)} == {funding()["transactionIdentifier"]}
    assert len(await moved(visa)) == 3


async def test_a_reversal_does_not_keep_an_adjustment_out(visa: VisaClient) -> None:
    """C1, C3: only its client keeps a pull from being handed back twice; the ledger shows both."""
    await fund(visa, recipient="tok_approve_7")
    assert (await visa.reverse(reverse_body())).body["actionCode"] == "00"
    await fund(visa, **funding(2) | {"recipient": APPROVED_CARD})
    assert (await visa.adjust(adjustment_body(2))).body["actionCode"] == "00"
    original = reverse_body(2)
    del original["senderPaymentCredentialReference"]
    assert (await visa.reverse(original | {"senderPrimaryAccountNumber": APPROVED_CARD})).body["actionCode"] == "00"
    assert [entry["operation"] for entry in await visa.entries()] == [
        "funding", "reverse", "funding", "adjustment", "reverse",
    ]  # fmt: skip


MISMATCHES: list[tuple[dict[str, Any], str]] = [
    ({"transactionIdentifier": 399999999999999}, "25"),
    ({"acquiringBin": 408998}, "25"),
    ({"senderPrimaryAccountNumber": "4957030420210454"}, "25"),
    ({"systemsTraceAuditNumber": int(funding()["stan"])}, "12"),
    ({"retrievalReferenceNumber": funding()["rrn"]}, "12"),
    ({"amount": "50.01"}, "13"),
    ({"senderCurrencyCode": "EUR"}, "13"),
]


async def test_an_adjustment_that_matches_no_aft_moves_nothing(visa: VisaClient) -> None:
    """It must match an AFT in identifier, card, amount and currency, and not repeat its numbers."""
    await fund(visa)
    for change, code in MISMATCHES:
        answer = await visa.adjust(adjustment_body(**change))
        assert (change, answer.body["actionCode"]) == (change, code)
    assert await moved(visa) == []


async def test_a_required_field_that_is_missing_or_for_another_purpose_is_400_3001(visa: VisaClient) -> None:
    """Visa's OpenAPI: required fields; the stand-in knows the credit of an AFT only (2140, 22)."""
    for name in (
        "merchantCategoryCode",
        "messageReasonCode",
        "transactionTypeCode",
        "pointOfServiceData",
        "senderCurrencyCode",
        "senderPrimaryAccountNumber",
        "senderReference",
        "transactionIdentifier",
    ):
        body = adjustment_body()
        del body[name]
        answer = await visa.adjust(body)
        assert (name, answer.status, answer.code) == (name, 400, "3001")
    for change in ({"messageReasonCode": 2150}, {"transactionTypeCode": 2}):
        assert (await visa.adjust(adjustment_body(**change))).code == "3001"


async def test_the_query_finds_it_under_its_own_numbers_alone(visa: VisaClient) -> None:
    """C4: neither the pull's query shows the adjustment nor the adjustment's the pull."""
    await fund(visa)
    await visa.adjust(adjustment_body())
    rows = (await visa.query(adjustment_body())).body
    assert [(row["transactionType"], row["statusCode"], row["actionCode"]) for row in rows] == [
        ("SALES REVERSAL", "COMPLETED", "00")
    ]
    assert [row["transactionType"] for row in (await visa.query(reverse_body())).body] == ["SALES DRAFT"]


@pytest.mark.parametrize("fault", ["effect_then_silence", "effect_then_reset", "effect_then_503"])
async def test_an_adjustment_can_lose_its_reply(visa: VisaClient, fault: str) -> None:
    """S4: handed back, and no answer that says so; the query shows it."""
    await fund(visa)
    await visa.faults({"operation": "adjustment", "fault": fault, "times": 1})
    with visa.impatient(), contextlib.suppress(httpx.TransportError):
        assert (await visa.adjust(adjustment_body())).status == 503
    await eventually(lambda: moved(visa))  # the client may have left before the effect was written
    assert len(await moved(visa)) == 1
    assert [row["actionCode"] for row in (await visa.query(adjustment_body())).body] == ["00"]


async def test_nothing_can_be_asked_about_a_late_one_but_the_query(visa: VisaClient) -> None:
    """Visa's OpenAPI has no status GET for adjustments."""
    await fund(visa)
    accepted = await visa.adjust(adjustment_body(), X_Transaction_Timeout_MS="1")
    assert accepted.status == 202
    assert (await visa.get(f"{ADJUSTMENT}/{accepted.body['statusIdentifier']}")).status == 404


ACCOUNTS_SINCE = ", 'account', 'account_return'"


@pytest.mark.parametrize(
    "unknown", [ACCOUNTS_SINCE, f", 'adjustment'{ACCOUNTS_SINCE}"], ids=["accounts", "adjustments"]
)
def test_a_ledger_file_from_before_an_operation_is_taken_over(tmp_path: Path, unknown: str) -> None:
    """The stand-in's ledger is the only judge of "paid": no entry of an earlier version may get lost or changed."""
    path = tmp_path / "ledger.sqlite3"
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        today: str = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'entries'").fetchone()[0]
        earlier = today.replace(unknown, "")
        assert earlier != today
        connection.executescript(f"DROP TABLE entries; {earlier};")
        connection.executescript("CREATE INDEX entries_by_numbers ON entries (stan, rrn)")
        row = dict.fromkeys(ENTRY_COLUMNS, "x") | {"at_ms": 1, "operation": "push", "money_moved": 1}
        row["duplicate_of"] = None
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO entries ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        connection.execute("UPDATE entries SET id = 41")
        connection.commit()
    for _ in range(2):
        store = Store(path)
        assert [(entry["id"], entry["operation"]) for entry in store.page("entries", 0, 10, None)] == [(41, "push")]
        store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert {"entries_by_numbers", "entries_by_status", "entries_refuse_update"} <= names
        assert "entries_before" not in names
        for operation in ("adjustment", "account"):
            row["operation"] = operation
            connection.execute(f"INSERT INTO entries ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        assert [number for (number,) in connection.execute("SELECT id FROM entries ORDER BY id")] == [41, 42, 43]
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute("DELETE FROM entries")
