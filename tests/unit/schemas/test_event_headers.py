"""Event headers, event ids and the reference at Visa: the same for the same payout, for ever (K3, design 3, 11)."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.card_numbers import looks_like_card_number
from schemas.headers import event_headers, event_id, event_type, header_text
from schemas.payout_id import PAYOUT_ID_PATTERN, is_payout_id, payout_id_problem
from schemas.sender_reference import sender_reference

AT = datetime(2025, 11, 3, 14, 5, 6, 7, tzinfo=UTC)
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
IDS = st.from_regex(PAYOUT_ID_PATTERN, fullmatch=True)


def headers(**changes: object) -> dict[str, bytes]:
    values: dict[str, object] = {
        "event_type": event_type("PayoutResult"),
        "source": "/payouts/submit",
        "at": AT,
        "correlation_id": "corr-1",
        "event_id": event_id("PayoutResult", "payout-1", 7),
    }
    return dict(event_headers(**(values | changes)))  # type: ignore[arg-type]


def test_the_headers_of_an_event() -> None:
    assert headers(traceparent=PARENT) == {
        "ce_specversion": b"1.0",
        "ce_id": event_id("PayoutResult", "payout-1", 7).encode(),
        "ce_type": b"io.payoutstreams.payout.result.v1",
        "ce_source": b"/payouts/submit",
        "ce_time": b"2025-11-03T14:05:06.000007Z",
        "content-type": b"application/avro",
        "traceparent": PARENT.encode(),
        "correlation_id": b"corr-1",
    }


@pytest.mark.parametrize("parent", [None, "", "00-0-0-01", PARENT.upper(), PARENT + "-x", "4111111111111111"])
def test_a_trace_that_is_none_is_left_out(parent: str | None) -> None:
    assert "traceparent" not in headers(traceparent=parent)


def test_a_correlation_id_is_bounded_and_never_a_card_number() -> None:
    """P6: it is chosen by the originator and copied into every event of the payout."""
    assert headers(correlation_id="4111-1111-1111-1111")["correlation_id"] == b"withheld"
    assert len(headers(correlation_id="x" * 5000)["correlation_id"]) == 256
    assert headers(correlation_id="\ud800")["correlation_id"] == b"?"
    assert "correlation_id" not in headers(correlation_id=None)


def test_times_are_utc() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=-5)))
    assert headers(at=elsewhere)["ce_time"] == headers()["ce_time"]
    with pytest.raises(ValueError, match="time zone"):
        headers(at=datetime(2025, 1, 1))  # noqa: DTZ001


def test_the_event_id_is_fixed_for_ever() -> None:
    """An event that is sent again after an upgrade must have the id it had before: golden values."""
    assert event_id("PayoutResult", "payout-1", 7) == "b9d42e72-b9da-5d4a-846d-7c59553a8d7f"
    assert sender_reference("payout-1") == "PZIS4D2T6IMWUQKX"


def test_the_event_id_differs_by_record_payout_and_version() -> None:
    ids = {
        event_id(name, payout, version)
        for name in ("PayoutResult", "PayoutRetry")
        for payout in ("payout-1", "payout-2")
        for version in (1, 2)
    }
    assert len(ids) == 8


def test_header_text_reads_what_strangers_send() -> None:
    sent: list[tuple[str, bytes | str | None]] = [("a", None), ("a", b"x"), ("a", b"y"), ("b", b"\xff"), ("c", "text")]
    assert [header_text(sent, name) for name in ("a", "b", "c", "d")] == ["x", None, "text", None]
    assert header_text(None, "a") is None


@given(payout_id=IDS)
def test_the_sender_reference_is_the_published_hash(payout_id: str) -> None:
    """Visa's senderReference: 16 characters; the auditor joins by it with no code of the processors."""
    reference = sender_reference(payout_id)
    assert re.fullmatch("[A-Z0-9]{16}", reference)
    assert reference == "P" + base64.b32encode(hashlib.sha256(payout_id.encode()).digest()).decode()[:15]
    assert not looks_like_card_number(reference)


@given(payout_ids=st.sets(IDS, min_size=2, max_size=50))
def test_payouts_have_references_of_their_own(payout_ids: set[str]) -> None:
    assert len({sender_reference(payout_id) for payout_id in payout_ids}) == len(payout_ids)


def test_no_reference_has_digits_that_stand_alone() -> None:
    """Even if the hash were all digits, the letter in front keeps them from being a card number."""
    assert not looks_like_card_number("P" + "4111111111111111"[:15])


@pytest.mark.parametrize(
    "text",
    [
        "payout-1",
        "A" * 64,
        "01J9Z3N8Q4R6T7V8W9X0Y1Z2A3",
        "550e8400-e29b-41d4-a716-446655440000",
        "20251103_000000000042",
    ],
)
def test_payout_ids(text: str) -> None:
    assert is_payout_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short-1",
        "A" * 65,
        "with space",
        "payout.1.2",
        "zahlung-ä",
        "payout-1\n",
        "payout-\u0661\u0662",
        "4111111111111111",
        "4111-1111-1111-1111",
        "4111_1111_1111_1111",
        "payout_5555555555554444",
    ],
)
def test_no_payout_ids(text: str) -> None:
    problem = payout_id_problem(text)
    assert problem is not None
    assert not text or text not in problem
