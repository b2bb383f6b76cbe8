"""The producer's journal: what is written is read again, and what is none is refused (design 10: lost)."""

from __future__ import annotations

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sandbox.auditor.evidence import Accepted, JournalUnreadable, Position, append_accepted, read_journal

CARD = "4957030420210462"
FACTS: dict[str, Any] = {
    "payout_id": "payout-0001",
    "topic": "demo-payout_requests",
    "partition": 3,
    "offset": 17,
    "value": b"\x00bytes",
    "amount_minor": 2_500,
    "currency": "USD",
    "recipient": CARD,
}


def test_line_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal = tmp_path / "accepted.jsonl"
    append_accepted(journal, **FACTS)
    append_accepted(journal, **FACTS | {"offset": 18, "payout_id": None, "amount_minor": None}, kind="raw")
    first, second = read_journal(journal)
    assert first == Accepted(
        Position("demo-payout_requests", 3, 17),
        "payout-0001",
        hashlib.sha256(b"\x00bytes").hexdigest(),
        2_500,
        "USD",
        CARD,
    )
    assert (second.position.offset, second.payout_id, second.amount_minor, second.kind) == (18, None, None, "raw")


def test_journal_is_for_its_owner_and_prints_no_recipient(tmp_path: Path) -> None:
    """P6: it holds card numbers in clear, as an input file of a test may."""
    journal = tmp_path / "accepted.jsonl"
    append_accepted(journal, **FACTS)
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert CARD not in repr(read_journal(journal))


def test_producers_may_share_a_journal(tmp_path: Path) -> None:
    journal = tmp_path / "accepted.jsonl"
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(lambda offset: append_accepted(journal, **FACTS | {"offset": offset}), range(500)))
    assert sorted(record.position.offset for record in read_journal(journal)) == list(range(500))


@pytest.mark.parametrize("line", ["{", "[]", "null", '{"topic": "t"}', '{"payout_id": "4957030420210462", "topic'])
def test_line_that_is_none_is_refused_by_number_and_not_quoted(tmp_path: Path, line: str) -> None:
    journal = tmp_path / "accepted.jsonl"
    append_accepted(journal, **FACTS)
    with journal.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(JournalUnreadable, match="line 2 of the journal") as refused:
        read_journal(journal)
    assert CARD not in str(refused.value)


def test_line_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long"):
        append_accepted(tmp_path / "accepted.jsonl", **FACTS | {"payout_id": "x" * 20_000})
