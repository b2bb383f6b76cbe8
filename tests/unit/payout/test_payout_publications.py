"""What a row announces follows from the row alone (K2, K3) and fits the contracts."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pytest

from processors.payout.events import Answered, CallKind, Held, Released, Reviewed, Screened, ScreeningVerdict, Validated
from processors.payout.outcome import OutcomeKind
from processors.payout.publications import Publication, publications
from processors.payout.row import (
    TERMINAL_STATES,
    UNPAID_ENDS,
    CompensationAction,
    CompensationState,
    Executor,
    FundingKind,
    PayoutRow,
    PayoutState,
)
from processors.payout.schedule import Schedule
from processors.payout.state_machine import apply
from processors.payout.step import Step
from schemas.topics import TOPICS

MakeRow = Callable[..., PayoutRow]
SCHEMAS = Path(__file__).parents[3] / "schemas"
SILENT = [PayoutState.RECEIVED, PayoutState.SUBMITTING, PayoutState.PENDING, PayoutState.UNKNOWN]
COMPENSATIONS = sorted(set(CompensationState) - {CompensationState.NONE})


def _encoded(publication: Publication) -> bytes:
    schema = json.loads((SCHEMAS / f"{publication.schema}.avsc").read_text("utf-8"))
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), dict(publication.record), strict=True)
    return stream.getvalue()


def _compensated(make_row: MakeRow, state: PayoutState, compensation: CompensationState, **changes: Any) -> PayoutRow:
    facts = {
        "funding_captured": True,
        "receipt_owned": True,
        "compensation": compensation,
        "compensation_action": CompensationAction.REVERSE_FUNDS,
        "compensation_executor": Executor.PROCESSOR,
        "compensation_version": 8,
        "version": 8,
    }
    return make_row(state, **(facts | changes))


@pytest.mark.parametrize("state", list(PayoutState))
def test_what_is_announced_fits_its_contract(make_row: MakeRow, state: PayoutState) -> None:
    """K3: every record encodes, under the topic that the one table gives its schema."""
    for publication in publications(make_row(state)):
        assert TOPICS[publication.topic].schema == publication.schema
        assert _encoded(publication)


@pytest.mark.parametrize("state", sorted(UNPAID_ENDS))
@pytest.mark.parametrize("compensation", COMPENSATIONS)
@pytest.mark.parametrize("kind", list(FundingKind))
def test_compensations_fit_their_contracts(
    make_row: MakeRow, state: PayoutState, compensation: CompensationState, kind: FundingKind
) -> None:
    """C2: what is required is announced with every unpaid end that calls for it; what became of it, when it ended."""
    events = publications(_compensated(make_row, state, compensation, funding_kind=kind))
    assert all(_encoded(event) for event in events)
    ended = compensation in (CompensationState.COMPENSATED, CompensationState.MANUAL)
    assert [event.schema for event in events] == [
        "PayoutResult",
        "PayoutFailedRequiresCompensation",
        *(["CompensationResult"] if ended else []),
    ]
    assert events[0].record["compensation_required"] is True


@pytest.mark.parametrize(("pulled_hours_ago", "announced"), [(23, "REVERSE_FUNDS"), (25, "ADJUSTMENT")])
def test_a_demand_says_for_ever_what_it_said_and_the_result_what_was_done(
    make_row: MakeRow, now: datetime, pulled_hours_ago: int, announced: str
) -> None:
    """K3, C3: a reversal that aged before its first intent was adjusted instead."""
    ended_at = now - timedelta(hours=2)
    row = _compensated(
        make_row,
        PayoutState.DECLINED,
        CompensationState.COMPENSATED,
        state_at=ended_at,
        funding_captured_at=ended_at - timedelta(hours=pulled_hours_ago),
        compensation_action=CompensationAction.ADJUSTMENT,
        compensation_reference="381228649430015",
    )
    _, demand, result = publications(row)
    assert demand.record["action"] == announced
    assert (result.record["action"], result.record["transaction_identifier"]) == ("ADJUSTMENT", "381228649430015")
    assert all(_encoded(event) for event in publications(row))


def test_a_row_with_nothing_optional_still_fits(make_row: MakeRow) -> None:
    """P8: a missing fact never stops a publish."""
    bare = {"reason_code": None, "reason": None, "policy_version": None, "funding_reference": None}
    row = _compensated(
        make_row,
        PayoutState.REJECTED,
        CompensationState.MANUAL,
        compensation_action=None,
        compensation_executor=None,
        **bare,
    )
    assert all(_encoded(event) for event in publications(row))


@pytest.mark.parametrize("state", sorted(TERMINAL_STATES))
def test_every_end_announces_exactly_one_result(make_row: MakeRow, state: PayoutState) -> None:
    """P1."""
    results = [event for event in publications(make_row(state)) if event.topic == "payout_results"]
    assert [event.record["status"] for event in results] == [state.value]


@pytest.mark.parametrize("state", SILENT)
def test_what_is_under_way_announces_nothing(make_row: MakeRow, state: PayoutState) -> None:
    """P3: unknown is never reported as failed."""
    assert publications(make_row(state)) == ()


def test_a_refused_payout_is_not_announced_as_cleared_again(make_row: MakeRow) -> None:
    """K3, S7: the ledger's schedule drives it, not a second event."""
    assert [event.schema for event in publications(make_row(PayoutState.CLEARED))] == ["ClearedPayout"]
    assert publications(make_row(PayoutState.CLEARED, attempts=1)) == ()


@pytest.mark.parametrize("state", sorted(set(PayoutState) - set(SILENT)))
def test_notes_on_a_row_do_not_change_what_it_announced(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """K3: the same event re-emitted, after a hold and a release, is the same to the byte."""
    row = make_row(state)
    held = apply(row, Held("INCIDENT"), now + timedelta(hours=1), schedule)
    assert isinstance(held, Step)
    released = apply(held.row, Released("operator-1"), now + timedelta(hours=2), schedule)
    assert isinstance(released, Step)
    announced_later = replace(released.row, announced_version=released.row.announce_version)
    assert publications(row) == publications(held.row) == publications(announced_later)


def test_an_approval_after_an_unpaid_end_does_not_change_the_announced_result(
    make_row: MakeRow, answer: Callable[..., Answered], now: datetime, schedule: Schedule
) -> None:
    """K3, L2."""
    row = _compensated(make_row, PayoutState.DECLINED, CompensationState.REQUIRED)
    late = answer(row, CallKind.QUERY, OutcomeKind.PAID, transaction_identifier="381228649430015", action_code="00")
    frozen = apply(row, late, now, schedule)
    assert isinstance(frozen, Step)
    assert publications(frozen.row)[: len(publications(row))] == publications(row)
    assert all(_encoded(event) for event in publications(frozen.row))


def test_a_whole_review_is_announced_and_encodes(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """R1, P7: the case carries its evidence and its own name."""
    row = make_row()
    review = Screened(
        ScreeningVerdict.NEEDS_REVIEW, "WATCH_LIST_REVIEW", "Similar.", "corridors-1", "list-1", 7_600, None, None
    )
    schemas = []
    for event in (Validated("corridors-1"), review, Reviewed("payout-0001.3", True, "reviewer-1", "SEEN")):
        step = apply(row, event, now, schedule)
        assert isinstance(step, Step)
        row = step.row
        assert row.announce_version == row.version, "K2"
        for publication in publications(row):
            assert _encoded(publication)
            assert publication.version == row.version
            schemas.append(publication.schema)
    assert schemas == ["ValidatedPayout", "ReviewCase", "ClearedPayout"]
