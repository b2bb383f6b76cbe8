"""The disaster drill and the runbook's procedure are the same one; and its people hold to the runbook's table."""

from __future__ import annotations

import shlex

from sandbox.auditor.evidence import CardPull, CompensationDemand, Evidence, ResultEvent, StandInEntry
from sandbox.drill import PROCEDURE
from sandbox.drill_people import Found, known
from schemas.sender_reference import sender_reference
from tests.docs.documents import commands

DISASTER = "all is lost"


def test_the_drill_does_what_the_runbook_says() -> None:
    """S4-32: the runbook's commands of a disaster, in its order, are those that `make drill` proves."""
    written = [shlex.split(one.text) for one in commands("RUNBOOK.md") if DISASTER in one.text]
    assert [tuple(word for word in words[1:] if word in KNOWN) for words in written] == list(PROCEDURE)


KNOWN = {"ledger", "restore", "adopt", "--part", "topics", "offsets"}


def evidence() -> Evidence:
    found = Evidence(b"")
    found.results = [
        ResultEvent("told-paid", "1", "PAID", 1, "USD"),
        ResultEvent("told-declined", "2", "DECLINED", 1, "USD"),
        ResultEvent("told-returned", "3", "RETURNED", 1, "USD"),
    ]
    found.demands = [CompensationDemand("asked", "4", "c", "ORIGINATOR")]
    found.pulls = [CardPull("3811", "reversed"), CardPull("3812", "pulled")]
    return found


def entry(operation: str, payout_id: str | None, identifier: str, *, moved: bool = True) -> StandInEntry:
    reference = None if payout_id is None else sender_reference(payout_id)
    return StandInEntry(1, operation, moved, "1.00", "USD", "f", reference, identifier)


def test_people_hold_to_the_table() -> None:
    """L11, P2, P4: paid by Visa's books alone; unpaid where anybody was told or has his money back; else it goes on."""
    books = [
        entry("push", "paid", "1"),
        entry("push", "told-paid", "2"),
        entry("push", "declined-by-visa", "3", moved=False),
        entry("reverse", None, "3811"),
        entry("funding", None, "3812"),
    ]
    said = known(evidence(), books)
    assert {
        name: said.of(name, "RECEIVED") for name in ("paid", "told-paid", "asked", "told-declined", "reversed")
    } == {
        "paid": Found.PAID,
        "told-paid": Found.PAID,
        "asked": Found.NOT_PAID,
        "told-declined": Found.NOT_PAID,
        "reversed": Found.NOT_PAID,
    }
    for name in ("declined-by-visa", "pulled", "told-returned", "nobody-knows"):
        assert said.of(name, "CLEARED") is Found.GOES_ON, name
    assert said.of("reversed", "FAILED") is Found.HANDED_BACK
    assert said.of("pulled", "DECLINED") is Found.GOES_ON
