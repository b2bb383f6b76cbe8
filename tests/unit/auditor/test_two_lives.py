"""The verdict on servers that were lost and put back: both lives are judged, and neither hides what the other did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sandbox.auditor.evidence import (
    Accepted,
    CompensationDemand,
    CompensationEnd,
    Confirmation,
    Evidence,
    Position,
    ResultEvent,
)
from sandbox.auditor.verdict import ZERO_TERMS, Verdict
from tests.unit.auditor.clean_run import CARD, KEY, PULL, TOPIC, Run, clean_run

RESENT = "resent-after-all"


def two_lives() -> Run:
    """All of a clean run was in the backup, but for one payout: paid and told in the first life, then sent again, held,

    and resolved as paid in the second, which tells it by an event of its own.
    """
    run = clean_run()
    before = run.evidence
    earlier = Evidence(KEY)
    earlier.add(replace(before, rows=[], intake=[], entries=[], leaks=[], broken=[]))
    gone = Accepted(Position(TOPIC, 0, 40), RESENT, "7" * 64, 2_500, "USD", CARD)
    earlier.accepted = [*before.accepted, gone]
    earlier.results.append(ResultEvent(RESENT, "result/first", "PAID", 2_500, "USD"))
    run.evidence.survived = {record.position for record in before.accepted}
    run.payout(RESENT, "PAID")
    again = replace(run.evidence.accepted[-1], value_sha256=gone.value_sha256)
    run.evidence.accepted = [again]
    run.evidence.earlier = earlier
    return run


def earlier_of(run: Run) -> Evidence:
    assert run.evidence.earlier is not None
    return run.evidence.earlier


def zeros(verdict: Verdict) -> dict[str, int]:
    return {term: verdict.count(term) for term in ZERO_TERMS if verdict.count(term)}


def test_a_cluster_that_was_put_back_is_judged_with_the_one_that_was_lost() -> None:
    """Issue 7: the same end told by each life is one end; what stands at its place or was sent again is not lost."""
    verdict = two_lives().judge()
    assert verdict.problems() == []
    assert verdict.counts["accepted"] == clean_run().judge().counts["accepted"] + 1
    assert verdict.counts["paid"] == clean_run().judge().counts["paid"] + 1


def never_resent(run: Run) -> None:
    """The record went with its cluster; its row, if there ever was one, too."""
    run.evidence.accepted = []
    run.evidence.rows = [row for row in run.evidence.rows if row.payout_id != RESENT]
    run.evidence.results = [result for result in run.evidence.results if result.payout_id != RESENT]


def not_put_back(run: Run) -> None:
    """One request is missing from the restored topic: its row tells of a record that nobody has."""
    run.evidence.survived -= {run.row("paid-jpy").position}


def sent_again_as_something_else(run: Run) -> None:
    run.evidence.accepted = [replace(run.evidence.accepted[0], value_sha256="8" * 64)]


def paid_in_both_lives(run: Run) -> None:
    run.add_entry(run.approved(RESENT), transaction_identifier="399999999999999")


def paid_and_told_as_unpaid(run: Run) -> None:
    """The originator of a payout that the second life paid was told in the first that it was declined."""
    earlier_of(run).results[-1] = replace(earlier_of(run).results[-1], status="DECLINED")


def told_as_paid_and_ended_unpaid(run: Run) -> None:
    run.change_row(RESENT, state="FAILED")
    run.evidence.results[-1] = replace(run.evidence.results[-1], status="FAILED")
    run.evidence.entries = [entry for entry in run.evidence.entries if entry is not run.approved(RESENT)]


def handed_back_in_the_first_life_and_paid_in_the_second(run: Run) -> None:
    earlier = earlier_of(run)
    earlier.demands.append(CompensationDemand(RESENT, "demand/first", "comp/r", "ORIGINATOR", "originator"))
    earlier.confirmations.append(Confirmation(RESENT, "comp/r", "originator", "release-r"))


def handed_back_in_both_lives(run: Run) -> None:
    """At Visa: whatever the events say."""
    entry = next(one for one in run.evidence.entries if one.operation == "reverse")
    run.add_entry(entry, operation="adjustment", transaction_identifier=PULL)


def handed_back_under_two_references(run: Run) -> None:
    earlier = earlier_of(run)
    word = next(one for one in earlier.confirmations if one.payout_id == "declined-released")
    earlier.confirmations.append(replace(word, reference="release-2"))


def lost_from_the_first_cluster(run: Run) -> None:
    earlier_of(run).broken.append("record 1 was acknowledged, but the topic does not hold it")


def told_twice_in_the_first_life(run: Run) -> None:
    earlier_of(run).results.append(ResultEvent(RESENT, "result/other", "PAID", 2_500, "USD"))


def told_twice_in_the_second_life(run: Run) -> None:
    run.evidence.results.append(ResultEvent(RESENT, "result/other", "PAID", 2_500, "USD"))


def told_another_amount_in_the_first_life(run: Run) -> None:
    earlier_of(run).results[-1] = replace(earlier_of(run).results[-1], amount_minor=2_600)


@pytest.mark.parametrize(
    ("plant", "expected", "term"),
    [
        (never_resent, {"lost": 1, "orphan": 1}, "lost"),
        (not_put_back, {"lost": 1}, "lost"),
        (sent_again_as_something_else, {"lost": 1}, "lost"),
        (paid_in_both_lives, {"double": 1}, "double"),
        (paid_and_told_as_unpaid, {"orphan": 1}, "conflicting_results"),
        (told_as_paid_and_ended_unpaid, {"phantom": 1}, "conflicting_results"),
        (handed_back_in_the_first_life_and_paid_in_the_second, {"orphan": 1}, "compensation"),
        (handed_back_in_both_lives, {"comp_double": 1}, "comp_double"),
        (handed_back_under_two_references, {"comp_double": 1}, "comp_double"),
        (lost_from_the_first_cluster, {}, "evidence"),
        (told_twice_in_the_first_life, {}, "conflicting_results"),
        (told_twice_in_the_second_life, {}, "conflicting_results"),
        (told_another_amount_in_the_first_life, {}, "amount"),
    ],
)
def test_neither_life_hides_a_violation(plant: Callable[[Run], None], expected: dict[str, int], term: str) -> None:
    """P1, P2, P4: a payout that was lost or paid twice over the two is red as ever."""
    run = two_lives()
    plant(run)
    verdict = run.judge()
    assert zeros(verdict) == expected, verdict.problems()
    assert verdict.count(term) >= 1, verdict.problems()


def test_an_end_is_told_again_under_the_name_that_people_gave_it() -> None:
    """L11: DECLINED in the first life; the second, which does not know it, was told by two people that it is unpaid."""
    run = two_lives()
    run.payout("ended", "FAILED")
    earlier = earlier_of(run)
    at = Position(TOPIC, 0, 30)
    earlier.accepted.append(replace(run.evidence.accepted.pop(), position=at))
    run.change_row("ended", position=at)
    run.evidence.survived.add(at)
    earlier.results.append(ResultEvent("ended", "result/first-end", "DECLINED", 2_500, "USD"))
    assert run.judge().problems() == []
    run.change_row("ended", state="UNKNOWN", held=True)
    run.evidence.results.pop()
    assert run.judge().problems() == [], "until then it waits for them"
    run.change_row("ended", held=False)
    assert run.judge().count("conflicting_results") == 1, "and goes on by itself only in the sight of the auditor"


def test_what_the_first_life_has_handed_back_waits_held_in_the_second() -> None:
    """L11, C1: people leave the hand-back alone that was made already; nobody but them may say that it is done."""
    run = two_lives()
    (end,) = [one for one in run.evidence.compensation_ends if one.payout_id == "declined-reversed"]
    run.evidence.compensation_ends.remove(end)
    assert end in earlier_of(run).compensation_ends
    run.change_row("declined-reversed", compensation="REQUIRED", held=True)
    assert run.judge().problems() == []
    run.change_row("declined-reversed", held=False)
    assert not run.judge().clean
    run.change_row("declined-reversed", compensation="COMPENSATED")
    run.evidence.compensation_ends.append(
        CompensationEnd("declined-reversed", "end/2", "COMPENSATED", "PROCESSOR", PULL)
    )
    assert run.judge().problems() == [], "the second life's own proof: one effect, told by each"
