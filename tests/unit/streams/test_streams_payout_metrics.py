"""What a worker counts of its payouts, over whole lives: each once, failures apart from declines, labels bounded."""

from __future__ import annotations

import asyncio
import json

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from ledger.figures import LedgerFigures, figures_of
from ledger.interface import ModeNotKnown, ModeRecord
from ledger.reconciliation_figures import CURRENCIES_MAX, ReconciliationFigures, reconciliation_figures_of
from processors.payout.row import DestinationKind
from processors.reconciliation.exception_kinds import ExceptionKind
from processors.visa.breaker import BreakerState
from processors.visa.identity import Operation
from streams.faust_sensor import WorkerSensor
from streams.ledger_figures import LOOK_EVERY_SECONDS, SHOWN_SECONDS, FiguresShown, LedgerLooks
from streams.metric_labels import COMBINATIONS_MAX, ORIGINATORS_MAX, OTHER, PayoutLabels, Seats
from streams.metrics import AWAY, Metrics
from streams.visa_jwks import state_shown
from tests.ops.operator_rows import new_row
from tests.promtool import NEEDS_PROMTOOL, what_promtool_says
from tests.unit.streams.streams_world import World, approved, lost_reply, refused
from tests.unit.streams.test_streams_review import decide, in_review


def value(metrics: Metrics, metric: str, /, **labels: str) -> float:
    """One sample; 0 where there is none."""
    return metrics.registry.get_sample_value(metric, labels) or 0.0


def series_of(registry: CollectorRegistry, name: str) -> int:
    """How many samples a metric has."""
    return sum(len(family.samples) for family in registry.collect() if family.name == name)


async def test_f02_a_decline_is_no_failure_and_every_end_is_counted_once(world: World) -> None:
    """F-02, E6: paid, declined, rejected and failed apart; what came to an end is the sum of them."""
    world.worker.metrics.labels = PayoutLabels({"US-US"})
    await world.ask("payout-paid1")
    await world.settle()
    world.visa.script[Operation.PUSH_FUNDS] = [lambda _: approved("05")]
    await world.ask("payout-declined1")
    await world.settle()
    world.visa.script[Operation.PUSH_FUNDS] = [lambda _: refused(400)]
    await world.ask("payout-failed1")
    await world.ask("payout-rejected1", amount={"amount_minor": -1, "currency": "USD"})
    await world.settle()
    metrics = world.worker.metrics
    rows = {row.payout_id: row.state.value for row in world.rows()}
    assert rows == {
        "payout-paid1": "PAID",
        "payout-declined1": "DECLINED",
        "payout-failed1": "FAILED",
        "payout-rejected1": "REJECTED",
    }
    for status in ("success", "declined", "failed", "rejected"):
        labels = {"status": status, "corridor": "US-US", "rail": "card", "originator": "acme"}
        assert value(metrics, "visa_direct_payouts_total", **labels) == 1, status
    assert value(metrics, "payout_total", corridor="US-US") == 4
    assert value(metrics, "payout_success_total", corridor="US-US") == 1
    assert value(metrics, "payouts_failed_total") == 1, "neither a decline nor a rejection is a failure"
    assert value(metrics, "payout_decline_total", corridor="US-US", rail="card") == 1
    assert value(metrics, "payout_amount_minor_total", currency="USD") == 2500
    assert value(metrics, "payouts_initiated_total") == 4
    assert value(metrics, "guard_failure_total", type="AMOUNT_NOT_POSITIVE", corridor="US-US") == 1
    assert value(metrics, "visa_nacks_total", action_code="05") == 1
    assert value(metrics, "visa_acks_total") == 1
    assert value(metrics, "payout_latency_seconds_count", corridor="US-US", rail="card") == 2
    assert value(metrics, "compensation_emitted_total", funding="internal", reason="declined") == 1
    assert value(metrics, "compliance_total") == value(metrics, "compliance_allowed_total") == 3


async def test_s2_03_redelivered_duplicate_and_conflict_are_counted_apart(world: World) -> None:
    """S2-03, S2-02: the same record again is no duplicate, and each has its own count."""
    record = await world.ask("payout-0001")
    await world.settle()
    await world.deliver(record)
    world.broker.put(record.topic, record.key, record.value or b"")
    await world.ask("payout-0001", amount={"amount_minor": 2600, "currency": "USD"})
    await world.settle()
    counted = {
        result: value(world.worker.metrics, "dedup_total", result=result)
        for result in ("unique", "redelivered", "duplicate", "conflict")
    }
    assert counted == {"unique": 1, "redelivered": 1, "duplicate": 1, "conflict": 1}
    assert value(world.worker.metrics, "dedup_duration_seconds_count", layer="ledger") >= 3


async def test_stages_and_retries_are_timed(world: World) -> None:
    """F-03, S0-20: each stage by itself; a payout that was paid by a second attempt is a retry that succeeded."""
    world.visa.script[Operation.PUSH_FUNDS] = [lambda _: refused(429), None]
    await world.ask("payout-0001")
    await world.settle()
    metrics = world.worker.metrics
    for stage in ("validation", "compliance"):
        assert value(metrics, "payout_stage_duration_seconds_count", stage=stage) == 1, stage
    assert value(metrics, "payout_stage_duration_seconds_count", stage="submission") == 2
    assert value(metrics, "retry_success_total") == 1
    assert value(metrics, "retry_latency_seconds_count") == 1
    assert value(metrics, "visa_request_duration_seconds_count", route="push", status="4xx") == 1
    assert value(metrics, "visa_request_duration_seconds_count", route="push", status="2xx") == 1


@pytest.mark.parametrize(("decision", "outcome"), [("APPROVE", "approved"), ("REJECT", "rejected")])
async def test_s3_13_reviews_are_counted_by_their_decision(world: World, decision: str, outcome: str) -> None:
    """S3-13: what was approved after all was a false alarm of the screening."""
    await in_review(world)
    await decide(world, "casey", decision=decision)
    metrics = world.worker.metrics
    other = {"approved": "rejected", "rejected": "approved"}[outcome]
    assert value(metrics, "manual_review_resolved_total", outcome=outcome) == 1
    assert value(metrics, "manual_review_resolved_total", outcome=other) == 0
    assert value(metrics, "compliance_review_total") == 1
    assert value(metrics, "payouts_approved_total") == (outcome == "approved")


async def test_s4_08_a_call_without_an_answer_is_counted_by_its_cause(world: World) -> None:
    """S4-08, P3: silence is an error of the connection and no end of the payout; the query that settles it counts."""
    world.visa.script[Operation.PUSH_FUNDS] = [lambda request: (world.visa.usual(request), lost_reply())[1]]
    await world.ask("payout-0001")
    await world.settle()
    metrics = world.worker.metrics
    assert value(metrics, "visa_connection_errors_total", kind="read_timeout") == 1
    assert value(metrics, "visa_request_duration_seconds_count", route="push", status="none") == 1
    assert value(metrics, "visa_status_query_total", result="paid") == 1
    assert value(metrics, "payouts_completed_total") == 1


async def test_what_is_handed_back_after_an_end_is_no_second_end(world: World) -> None:
    """E6, C1: the steps of a compensation are counted as its own, and the payout has ended once."""
    world.visa.script[Operation.PUSH_FUNDS] = [lambda _: approved("05")]
    await world.ask("payout-0001", funding=world.card_pull("payout-0001"))
    await world.settle()
    row, metrics = await world.row("payout-0001"), world.worker.metrics
    assert (row.state, row.compensation) == ("DECLINED", "COMPENSATED")
    assert value(metrics, "payout_total", corridor=OTHER) == 1
    assert value(metrics, "compensation_emitted_total", funding="aft", reason="declined") == 1
    assert value(metrics, "compensation_completed_total", type="reverse_funds") == 1
    assert value(metrics, "compensation_failed_total") == 0
    assert value(metrics, "payout_stage_duration_seconds_count", stage="compensation") == 1


def test_a_breaker_counts_the_seconds_for_which_it_was_open() -> None:
    """E6: also while it is still open, and never backwards."""
    metrics = Metrics()
    changed = state_shown(metrics)
    assert value(metrics, "circuit_breaker_open_seconds_total", name="jwks") == 0
    changed(BreakerState.OPEN, False)
    first = value(metrics, "circuit_breaker_open_seconds_total", name="jwks")
    second = value(metrics, "circuit_breaker_open_seconds_total", name="jwks")
    assert 0 < first < second
    changed(BreakerState.HALF_OPEN, False)
    changed(BreakerState.CLOSED, False)
    closed = value(metrics, "circuit_breaker_open_seconds_total", name="jwks")
    assert closed > second
    assert value(metrics, "circuit_breaker_open_seconds_total", name="jwks") == closed


def test_faults_sensor_counts_and_times_rebalances() -> None:
    """Faust gives back at the end what it was given at the beginning."""
    metrics = Metrics()
    sensor = WorkerSensor(metrics)
    sensor.on_rebalance_end(None, sensor.on_rebalance_start(None))
    assert value(metrics, "payouts_rebalances_total") == value(metrics, "payouts_rebalance_seconds_count") == 1


def test_what_pauses_work_is_named_and_bounded() -> None:
    """K5: reasons carry details; the label does not."""
    metrics = Metrics()
    metrics.show_paused_for(["database", "ledger:BEHIND", "something new"])
    felt = {what for what in (*AWAY, "other") if value(metrics, "payouts_paused_for", what=what)}
    assert felt == {"database", "ledger", "other"}
    metrics.show_paused_for([])
    assert not [what for what in (*AWAY, "other") if value(metrics, "payouts_paused_for", what=what)]


def test_figures_that_are_too_old_are_gone_and_not_stale() -> None:
    """E6: while nobody could count there is no number; when the last one was is known."""
    now = [1_000.0]
    shown = FiguresShown(lambda: now[0])
    registry = CollectorRegistry()
    registry.register(shown)
    assert registry.get_sample_value("payouts_ledger_figures_timestamp_seconds") is None
    shown.took(figures_of([], 0, {"lines": 0, "seconds": None}), 0.1)
    assert registry.get_sample_value("payouts_held") == 0
    assert registry.get_sample_value("payouts_by_status", {"status": "UNKNOWN"}) == 0
    now[0] += SHOWN_SECONDS + 1
    assert registry.get_sample_value("payouts_held") is None
    assert registry.get_sample_value("payouts_by_status", {"status": "UNKNOWN"}) is None
    assert registry.get_sample_value("payouts_ledger_figures_timestamp_seconds") == 1_000.0


def shown_of(reconciled: ReconciliationFigures | None) -> CollectorRegistry:
    """What is scraped after a look that found this."""
    shown, registry = FiguresShown(), CollectorRegistry()
    registry.register(shown)
    shown.took(figures_of([], 0, {"lines": 0, "seconds": None}, *(() if reconciled is None else (reconciled,))), 0.1)
    return registry


def test_e6_before_the_first_reconciliation_everything_is_there_and_0() -> None:
    """E6: an alert on a kind of exception has its series before anything was found; no difference is made up."""
    registry = shown_of(None)
    for name in ("last_success_timestamp_seconds", "last_visa_timestamp_seconds", "matched_items", "unmatched_items"):
        assert registry.get_sample_value(f"reconciliation_{name}") == 0, name
    for kind in (*ExceptionKind, OTHER):
        assert registry.get_sample_value("reconciliation_exceptions", {"type": kind}) == 0, kind
    assert series_of(registry, "reconciliation_exceptions") == len(ExceptionKind) + 1
    assert series_of(registry, "reconciliation_amount_difference_minor") == 0


def test_e6_kinds_of_a_newer_release_are_one_label_and_none_is_lost() -> None:
    """E6: an unknown word makes no series of its own, and is still an open exception."""
    registry = shown_of(ReconciliationFigures(open_by_kind={"PAID_TWICE": 1, "SOMETHING_NEW": 2, "NEWER_STILL": 4}))
    assert registry.get_sample_value("reconciliation_exceptions", {"type": "PAID_TWICE"}) == 1
    assert registry.get_sample_value("reconciliation_exceptions", {"type": OTHER}) == 6
    assert registry.get_sample_value("reconciliation_unmatched_items") == 7
    assert series_of(registry, "reconciliation_exceptions") == len(ExceptionKind) + 1


def test_e6_a_difference_is_visas_sum_less_ours_where_both_are_known() -> None:
    """E6: also below 0, beyond what a double tells apart as a sum; what is no currency or no sum makes no label."""
    money = {
        "USD": {"ledger": 500, "visa": 400},
        "JPY": {"ledger": 9_007_199_254_740_993, "visa": 9_007_199_254_740_994},
        "KWD": {"ledger": 7, "visa": 7},
        "EUR": {"ledger": 5},
        "GBP": {"ledger": 5, "visa": None},
        "CHF": {"ledger": 5, "visa": True},
        "SEK": {"ledger": 5, "visa": "5"},
        "Mara Lindqvist": {"ledger": 5, "visa": 6},
        "NOK": [5, 6],
    }
    found = reconciliation_figures_of(None, {"ended_at": 12.5, "money": json.dumps(money)}, [])
    assert dict(found.visa_minus_ledger) == {"JPY": 1, "USD": -100, "KWD": 0}
    assert (found.last_at, found.last_visa_at) == (0.0, 12.5)
    registry = shown_of(found)
    assert registry.get_sample_value("reconciliation_amount_difference_minor", {"currency": "USD"}) == -100
    assert registry.get_sample_value("reconciliation_amount_difference_minor", {"currency": "EUR"}) is None


@pytest.mark.parametrize("text", ["[]", "null", "{}"])
def test_e6_sums_in_another_form_end_no_look(text: str) -> None:
    """E6: what a newer release wrote is left out; the other figures are shown."""
    assert reconciliation_figures_of(None, {"ended_at": 1.0, "money": text}, []).visa_minus_ledger == {}


def test_e6_currencies_are_bounded_and_those_that_differ_come_first() -> None:
    """E6: a gauge has at most so many labels, and none that differs gives way to one that does not."""
    names = [f"{a}{b}X" for a in "ABCDEFGHIJ" for b in "ABCDEFGHIJ"]
    money = {name: {"ledger": 1, "visa": 1 + (name >= "J")} for name in names}
    found = reconciliation_figures_of(None, {"ended_at": 1.0, "money": json.dumps(money)}, [])
    assert len(found.visa_minus_ledger) == CURRENCIES_MAX
    assert {name for name, minor_units in found.visa_minus_ledger.items() if minor_units} == set(names[90:])


def test_e6_figures_of_reconciliations_grow_old_with_the_others() -> None:
    """E6: while nobody could count there is no number."""
    now = [1_000.0]
    shown, registry = FiguresShown(lambda: now[0]), CollectorRegistry()
    registry.register(shown)
    shown.took(figures_of([], 0, {"lines": 0, "seconds": None}, ReconciliationFigures(last_at=5.0)), 0.1)
    assert registry.get_sample_value("reconciliation_last_success_timestamp_seconds") == 5.0
    now[0] += SHOWN_SECONDS + 1
    assert registry.get_sample_value("reconciliation_last_success_timestamp_seconds") is None
    assert series_of(registry, "reconciliation_exceptions") == 0


def test_the_longer_counting_takes_the_longer_it_rests() -> None:
    """E6: a table that takes five seconds to read is read every hundred, and its figures live as long."""
    shown = FiguresShown(lambda: 0.0)
    assert shown.rest_seconds == LOOK_EVERY_SECONDS
    shown.took(figures_of([], 0, {"lines": 0, "seconds": None}), 5.0)
    assert shown.rest_seconds == 100.0
    shown.failed(30.0)
    assert shown.rest_seconds == 600.0


def test_a_thousand_originators_are_twenty_and_the_others() -> None:
    """E6, P6: whoever sends requests makes no series; listed originators have theirs whoever came before."""
    metrics = Metrics()
    metrics.labels = PayoutLabels({"US-GB"}, ["listed"])
    for number in range(1000):
        row = new_row(f"payout-{number:06}", originator_id=f"shop-{number}")
        metrics.count_end("success", row)
    metrics.count_end("success", new_row("payout-listed", originator_id="listed"))
    assert series_of(metrics.registry, "visa_direct_payouts") == ORIGINATORS_MAX + 1
    listed = {"status": "success", "corridor": "US-GB", "rail": "card", "originator": "listed"}
    assert value(metrics, "visa_direct_payouts_total", **listed) == 1
    others = listed | {"originator": OTHER}
    assert value(metrics, "visa_direct_payouts_total", **others) == 1000 - (ORIGINATORS_MAX - 1)


def test_an_originator_takes_a_seat_only_where_a_policy_serves_it() -> None:
    """P6: rubbish takes no seat, and neither a card number nor a sentence ever becomes a label."""
    labels = PayoutLabels({"US-GB"})
    rubbish = new_row("payout-000001", originator_id="evil", source_country="XX")
    assert labels.end("rejected", rubbish) == ("rejected", OTHER, "card", OTHER)
    for name in ("4957030420210462", "Mara Lindqvist", "", "x" * 65, "naïve"):
        assert labels.originator(new_row("payout-000002", originator_id=name)) == OTHER, name
    assert labels.originator(new_row("payout-000003", originator_id="shop-1")) == "shop-1"


def test_combinations_are_bounded_as_well() -> None:
    """E6: even with every corridor, rail and originator there is, one metric stays below its bound."""
    countries = [f"{a}{b}" for a in "ABCDEFGH" for b in "ABCDEFGH"]
    labels = PayoutLabels({f"US-{country}" for country in countries})
    made = {
        labels.end("success", new_row("p", originator_id=f"o{number}", target_country=country, destination_kind=kind))
        for number in range(40)
        for country in countries
        for kind in DestinationKind
    }
    assert len(made) <= COMBINATIONS_MAX + len(DestinationKind)
    assert ("success", OTHER, "card", OTHER) in made


def test_seats_are_given_once() -> None:
    """A name keeps its seat; a full house gives no more."""
    seats = Seats(2, ["a"])
    assert [seats.label(name) for name in ("b", "c", "b", "a")] == ["b", OTHER, "b", "a"]


@NEEDS_PROMTOOL
async def test_promtool_finds_nothing_to_say(world: World) -> None:
    """E6: names, types and help of everything that a worker has counted are as Prometheus wants them."""
    await world.ask("payout-0001")
    await world.settle()
    assert what_promtool_says(generate_latest(world.worker.metrics.registry)) == ""


class NewerLedger:
    """A database in a mode, and with a state, that a newer release has brought."""

    async def mode(self) -> ModeRecord:
        """A word that is not ours."""
        raise ModeNotKnown("the mode in force is a word of a newer release")


async def test_e6_a_word_of_a_newer_release_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """E5, E6: nothing is decided by figures; the database answers, and the counting goes on being tried."""
    metrics, looks = Metrics(), list[int]()

    async def look() -> LedgerFigures:
        looks.append(1)
        if len(looks) > 1:
            raise asyncio.CancelledError
        raise KeyError("ARCHIVED")

    watch = LedgerLooks(NewerLedger(), look, metrics)
    monkeypatch.setattr(FiguresShown, "rest_seconds", 0.0)
    with pytest.raises(asyncio.CancelledError):
        await watch.look_forever()
    assert len(looks) == 2
    assert metrics.registry.get_sample_value("payouts_database_up") == 1.0
