"""K5, S7: calls pause while Visa serves nobody; one at a time probes; an outage costs no payout anything."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from jwcrypto import jwk

from processors.payout.events import CallKind
from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.payout.schedule import Schedule
from processors.visa.breaker import Breaker
from processors.visa.exchange import Exchange, Failed, FailureCause
from processors.visa.identity import Operation
from processors.visa.jwks import JwksKeys, KeysUnavailable
from processors.visa.requests import VisaRequest
from streams.metrics import Metrics
from streams.sweeper import TRICKLE_MAX
from streams.visa_pause import (
    HONOURED_SECONDS_MAX,
    LANE_OF,
    NOBODY_ASKS_SECONDS,
    PROBE_FIRST_SECONDS,
    Evidence,
    Pause,
    Turn,
    VisaPauses,
    evidence,
    needs_repair,
)
from tests.unit.streams.streams_world import World, approved, lost_reply, refused

AFTER, PROBE_MAX_SECONDS = 4, 30.0
PAID = Outcome(OutcomeKind.PAID, "ACTION_CODE_00", action_code="00", http_status=200)
SILENT = Outcome(OutcomeKind.UNKNOWN, "READ_TIMEOUT")
NOT_CONNECTED = Outcome(OutcomeKind.REFUSED, "CONNECT_FAILED", refusal=Refusal.NOT_CONNECTED, systemic=True)
CREDENTIALS = Outcome(OutcomeKind.REFUSED, "HTTP_401", refusal=Refusal.CREDENTIALS, http_status=401, systemic=True)


class Now:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


# --- what an outcome says about Visa ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (PAID, Evidence.ANSWERED),
        (Outcome(OutcomeKind.DECLINED, "ACTION_CODE_05", action_code="05", http_status=200), Evidence.ANSWERED),
        (Outcome(OutcomeKind.PENDING, "HTTP_202", http_status=202), Evidence.ANSWERED),
        (Outcome(OutcomeKind.NOT_FOUND, "QUERY_NOT_FOUND", http_status=200), Evidence.ANSWERED),
        (Outcome(OutcomeKind.OPERATOR, "QUERY_FAILED", http_status=200), Evidence.ANSWERED),
        (Outcome(OutcomeKind.UNKNOWN, "ACTION_CODE_91", action_code="91", http_status=200), Evidence.ANSWERED),
        (Outcome(OutcomeKind.REFUSED, "HTTP_400", refusal=Refusal.REQUEST_INVALID, http_status=400), Evidence.ANSWERED),
        (Outcome(OutcomeKind.UNKNOWN, "STATUS_IDENTIFIER_UNKNOWN", http_status=404), Evidence.NONE),
        (Outcome(OutcomeKind.REFUSED, "DEADLINE_PASSED", refusal=Refusal.NOT_CONNECTED, systemic=True), Evidence.NONE),
        (Outcome(OutcomeKind.REFUSED, "POOL_TIMEOUT", refusal=Refusal.NOT_CONNECTED, systemic=True), Evidence.NONE),
        (NOT_CONNECTED, Evidence.AWAY),
        (CREDENTIALS, Evidence.AWAY),
        (Outcome(OutcomeKind.REFUSED, "HTTP_429", refusal=Refusal.RATE_LIMITED, http_status=429), Evidence.AWAY),
        (SILENT, Evidence.AWAY),
        (Outcome(OutcomeKind.UNKNOWN, "HTTP_503", http_status=503), Evidence.AWAY),
        (Outcome(OutcomeKind.UNKNOWN, "REPLY_UNDECRYPTABLE", http_status=200), Evidence.AWAY),
        (Outcome(OutcomeKind.UNKNOWN, "CLIENT_CERTIFICATE_REFUSED", systemic=True), Evidence.AWAY),
    ],
)
def test_only_what_fails_everybody_counts_against_visa(outcome: Outcome, expected: Evidence) -> None:
    """S7: a payout's own answer, even a decline, shows that Visa serves; our own deadline says nothing."""
    assert evidence(outcome) is expected


def test_what_a_person_must_repair_is_told_from_what_passes() -> None:
    """S4, S7: credentials, URLs and certificates; not silence, not a connection that was refused."""
    certificate = Outcome(OutcomeKind.UNKNOWN, "CLIENT_CERTIFICATE_REFUSED", systemic=True)
    assert [needs_repair(outcome) for outcome in (CREDENTIALS, certificate, SILENT, NOT_CONNECTED, PAID)] == [
        True, True, False, False, False,
    ]  # fmt: skip


# --- the pure pause -----------------------------------------------------------------------------------------------


def test_it_pauses_after_failures_in_a_row_and_an_answer_in_between_begins_anew() -> None:
    """S7: a call lost now and then is not an outage."""
    pause = Pause(after_failures=3, probe_max_seconds=8.0, clock=Now())
    for _ in range(5):
        for _ in range(2):
            pause.failed(Turn(False), "x")
        pause.answered(Turn(False))
    assert pause.reason is None
    for _ in range(3):
        assert pause.reason is None
        pause.failed(Turn(False), "x")
    assert (pause.reason, pause.admit()) == ("x", None)


def test_probes_come_one_at_a_time_and_ever_less_often_up_to_the_bound() -> None:
    """K5, S7: 1, 2, 4, 8, 8 seconds; then one answer lets all through."""
    now = Now()
    pause = Pause(after_failures=1, probe_max_seconds=8.0, clock=now)
    pause.failed(Turn(False), "x")
    for seconds in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert pause.seconds_to_probe() == seconds
        now.seconds += seconds - 0.01
        assert pause.admit() is None
        now.seconds += 0.01
        probe = pause.admit()
        assert probe is not None
        assert (probe.is_probe, pause.admit(), pause.seconds_to_probe()) == (True, None, None)
        pause.failed(probe, "x")
    now.seconds += 8.0
    probe = pause.admit()
    assert probe is not None
    pause.answered(probe)
    assert pause.admit() != pause.admit()


def test_a_probe_that_made_no_call_leaves_its_place_to_the_next() -> None:
    """K5: a lost compare-and-set or a held row must not keep the lane shut."""
    now = Now()
    pause = Pause(after_failures=1, probe_max_seconds=8.0, clock=now)
    pause.failed(Turn(False), "x")
    now.seconds = 1.0
    first = pause.admit()
    assert first is not None
    pause.left(first)
    assert pause.admit() is not None


def test_a_probe_whose_answer_says_nothing_leaves_the_next_one_its_time() -> None:
    """S7: a Visa that answers 408 to everybody is probed at its pace, not hammered."""
    now = Now()
    pause = Pause(after_failures=1, probe_max_seconds=8.0, clock=now)
    pause.failed(Turn(False), "x")
    for _ in range(3):
        assert pause.seconds_to_probe() == 1.0
        now.seconds += 1.0
        probe = pause.admit()
        assert probe is not None
        pause.unclear(probe)
        pause.left(probe)
    pause.unclear(Turn(False))
    assert (pause.seconds_to_probe(), pause.reason) == (1.0, "x"), "who began before the pause says nothing either"


def test_a_pause_that_nobody_runs_into_is_not_felt_and_the_next_caller_still_probes_alone() -> None:
    """K4, K5: what nobody needs slows nobody; and nobody knows yet that Visa serves it again."""
    now = Now()
    pause = Pause(after_failures=1, probe_max_seconds=8.0, clock=now)
    pause.failed(Turn(False), "x")
    now.seconds = PROBE_FIRST_SECONDS + NOBODY_ASKS_SECONDS - 0.1
    assert pause.felt_reason == "x"
    now.seconds += 0.1
    assert pause.felt_reason is None
    probe = pause.admit()
    assert probe is not None
    assert (probe.is_probe, pause.admit(), pause.felt_reason) == (True, None, "x")
    pause.failed(probe, "y")
    assert pause.felt_reason == "y"


def test_a_long_retry_after_is_waited_for_and_bounded() -> None:
    """S7: Retry-After honoured; a typo of a peer does not stop the worker for a day."""
    for asked_seconds, waited in ((20.0, 20.0), (86_400.0, HONOURED_SECONDS_MAX), (0.0, PROBE_FIRST_SECONDS)):
        pause = Pause(after_failures=8, probe_max_seconds=30.0, clock=Now())
        pause.failed(Turn(False), "x", at_once=True, wait_seconds=asked_seconds)
        assert pause.seconds_to_probe() == waited


class PauseLife(RuleBasedStateMachine):
    """Callers come, calls end in every way and order, time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Now()
        self.pause = Pause(after_failures=AFTER, probe_max_seconds=PROBE_MAX_SECONDS, clock=self.now)
        self.turns: list[Turn] = []
        self.failures_since_answer = 0

    @rule()
    def someone_comes(self) -> None:
        turn = self.pause.admit()
        if turn is not None:
            assert turn.is_probe is (self.pause.reason is not None)
            self.turns.append(turn)

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 5.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now.seconds += seconds

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), at_once=st.booleans())
    def a_call_fails(self, data: st.DataObject, at_once: bool) -> None:
        turn = self.turns.pop(data.draw(st.integers(0, len(self.turns) - 1)))
        was_open = self.pause.reason is None
        self.pause.failed(turn, "visa:X", at_once=at_once)
        self.pause.left(turn)
        self.failures_since_answer += 1
        if was_open:
            assert (self.pause.reason is not None) is (at_once or self.failures_since_answer >= AFTER)
        else:
            assert self.pause.reason is not None, "a failure never opens"

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def an_answer_says_nothing(self, data: st.DataObject) -> None:
        turn = self.turns.pop(data.draw(st.integers(0, len(self.turns) - 1)))
        reason = self.pause.reason
        self.pause.unclear(turn)
        self.pause.left(turn)
        assert self.pause.reason == reason, "it neither pauses nor opens"

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def a_call_is_answered(self, data: st.DataObject) -> None:
        turn = self.turns.pop(data.draw(st.integers(0, len(self.turns) - 1)))
        self.pause.answered(turn)
        self.pause.left(turn)
        self.failures_since_answer = 0
        assert self.pause.reason is None

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def a_turn_ends_without_a_call(self, data: st.DataObject) -> None:
        self.pause.left(self.turns.pop(data.draw(st.integers(0, len(self.turns) - 1))))

    @invariant()
    def one_probe_at_a_time(self) -> None:
        if self.pause.reason is not None:
            probing = self.pause.seconds_to_probe() is None
            assert probing <= any(turn.is_probe for turn in self.turns), "a probe that nobody holds would never end"

    @invariant()
    def somebody_may_always_try_in_bounded_time(self) -> None:
        """A lane never stays shut: a probe is under way, or is possible within the bound."""
        seconds = self.pause.seconds_to_probe()
        assert seconds is None or seconds <= PROBE_MAX_SECONDS

    def teardown(self) -> None:
        """Whatever happened: once Visa answers, the lane is open."""
        for turn in self.turns:
            self.pause.left(turn)
        self.now.seconds += PROBE_MAX_SECONDS
        turn = self.pause.admit()
        assert turn is not None
        self.pause.answered(turn)
        assert self.pause.reason is None


TestPauseLife = PauseLife.TestCase


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([PAID, SILENT, NOT_CONNECTED, None]), max_size=12))
@example([None, SILENT, SILENT])
@example([PAID, NOT_CONNECTED, None, SILENT, SILENT])
def test_nobody_who_waits_is_forgotten(outcomes: list[Outcome | None]) -> None:
    """K5: in whatever order calls end, or end without a call (None), every waiter gets its turn."""

    async def run() -> None:
        pauses = VisaPauses(after_failures=2, probe_max_seconds=0.002, clock=_fast_clock(), metrics=Metrics())
        lane = pauses.lane(CallKind.PUSH)
        left = list(outcomes)
        places = asyncio.Semaphore(2)

        async def caller() -> None:
            while True:
                async with places:
                    turn = lane.enter()
                    if turn is not None:
                        await asyncio.sleep(0.0001)
                        outcome = left.pop() if left else PAID
                        if outcome is not None:
                            lane.conclude(turn, outcome)
                        lane.leave(turn)
                        return
                assert await lane.wait()

        await asyncio.wait_for(asyncio.gather(*(caller() for _ in range(14))), 20.0)
        assert pauses.reasons == ()

    asyncio.run(run())


def _fast_clock() -> Callable[[], float]:
    """A thousand seconds a second, so that pauses take milliseconds."""
    import time

    begun = time.monotonic()
    return lambda: (time.monotonic() - begun) * 1000


# --- lanes --------------------------------------------------------------------------------------------------------


def lanes(now: Now | None = None) -> VisaPauses:
    return VisaPauses(after_failures=2, probe_max_seconds=8.0, clock=now or Now(), metrics=Metrics())


def fail(pauses: VisaPauses, call: CallKind, outcome: Outcome, times: int = 2) -> None:
    lane = pauses.lane(call)
    for _ in range(times):
        turn = lane.enter()
        if turn is not None:
            lane.conclude(turn, outcome)
            lane.leave(turn)


def test_every_kind_of_call_has_a_lane_and_a_lane_pauses_alone() -> None:
    """K5: pushes that nobody answers leave queries going, and adjustments that are not allowed leave pushes going."""
    assert set(LANE_OF) == set(CallKind)
    pauses = lanes()
    fail(pauses, CallKind.PUSH, SILENT)
    assert pauses.reasons == ("visa:READ_TIMEOUT",)
    assert pauses.lane(CallKind.PUSH).enter() is None
    for call in set(CallKind) - {CallKind.PUSH}:
        assert pauses.lane(call).enter() is not None
    assert pauses.lane(CallKind.QUERY) is pauses.lane(CallKind.STATUS)


def test_a_paused_lane_is_seen_in_the_metric() -> None:
    """`visa_paused` is 1 while a lane waits."""
    now, metrics = Now(), Metrics()
    pauses = VisaPauses(after_failures=2, probe_max_seconds=8.0, clock=now, metrics=metrics)

    def shown(lane: str) -> float | None:
        return metrics.registry.get_sample_value("visa_paused", {"lane": lane})

    assert (shown("PUSH"), shown("QUESTIONS")) == (0, 0)
    fail(pauses, CallKind.PUSH, NOT_CONNECTED)
    assert (shown("PUSH"), shown("QUESTIONS")) == (1, 0)
    now.seconds = 2.0
    fail(pauses, CallKind.PUSH, PAID, times=1)
    assert shown("PUSH") == 0


ERROR_500 = Outcome(OutcomeKind.UNKNOWN, "HTTP_500", http_status=500)
TIMED_OUT_THERE = Outcome(OutcomeKind.UNKNOWN, "HTTP_408", http_status=408)


@pytest.mark.parametrize("outcome", [ERROR_500, TIMED_OUT_THERE])
def test_what_fails_while_its_lane_is_paused_is_not_the_payouts_own(outcome: Outcome) -> None:
    """S7: the pause says that it is everybody's; while the lane is open a 500 counts against its payout."""
    now = Now()
    lane = lanes(now).lane(CallKind.PUSH)
    earlier, probe = lane.enter(), lane.enter()
    assert earlier is not None
    assert lane.conclude(Turn(False), outcome) == outcome
    assert outcome.is_own_failure
    lane.conclude(Turn(False), CREDENTIALS)
    assert not lane.conclude(earlier, outcome).is_own_failure, "under way when the pause began"
    now.seconds = 60.0
    probe = lane.enter()
    assert probe is not None
    assert not lane.conclude(probe, outcome).is_own_failure
    assert lane.conclude(earlier, PAID) == PAID
    assert lane.conclude(Turn(False), outcome).is_own_failure, "the lane is open again"


def test_only_what_every_payout_needs_stops_payouts() -> None:
    """K4: reversals that are not allowed, or an account rail that is away, must not slow the sweeper's other drives."""
    for call in CallKind:
        pauses = lanes()
        fail(pauses, call, CREDENTIALS, times=1)
        assert pauses.reasons
        assert pauses.stop_payouts is (call not in (CallKind.REVERSE, CallKind.ADJUST, CallKind.ACCOUNT_SEND))


def test_credentials_and_a_long_retry_after_pause_at_once_and_a_short_one_does_not() -> None:
    """S7: what fails everybody is not tried with the next eight payouts."""

    def limited(seconds: float) -> Outcome:
        return Outcome(
            OutcomeKind.REFUSED, "HTTP_429", refusal=Refusal.RATE_LIMITED, systemic=True, retry_after_seconds=seconds
        )

    for outcome, reason in ((CREDENTIALS, "visa:CREDENTIALS"), (limited(30), "visa:RATE_LIMITED")):
        pauses = lanes()
        fail(pauses, CallKind.PUSH, outcome, times=1)
        assert pauses.reasons == (reason,)
    pauses = lanes()
    fail(pauses, CallKind.PUSH, limited(1), times=1)
    assert pauses.reasons == ()


async def test_who_waits_leaves_when_the_worker_stops() -> None:
    """K5: a drain does not wait for Visa to come back."""
    pauses = lanes()
    limited = Outcome(OutcomeKind.REFUSED, "HTTP_429", refusal=Refusal.RATE_LIMITED, retry_after_seconds=300)
    fail(pauses, CallKind.PUSH, limited)
    waiting = asyncio.create_task(pauses.lane(CallKind.PUSH).wait())
    await asyncio.sleep(0)
    pauses.stop()
    assert await asyncio.wait_for(waiting, 30.0) is False
    assert await pauses.lane(CallKind.PUSH).wait() is False


# --- whole lives --------------------------------------------------------------------------------------------------

PUSH, QUERY = Operation.PUSH_FUNDS, Operation.TRANSACTION_QUERY
OUTAGE_SECONDS = 3600.0


class Outage:
    """A Visa that serves nobody for an hour of the world's time."""

    def __init__(self, world: World, exchange: Exchange, *, takes_seconds: float = 0.0) -> None:
        self.until = world.now.timestamp() + OUTAGE_SECONDS
        self.world, self.exchange, self.takes_seconds = world, exchange, takes_seconds
        self.usual = world.visa.usual
        self.in_outage: list[VisaRequest] = []
        world.visa.usual = self  # type: ignore[method-assign]

    def __call__(self, request: VisaRequest) -> Exchange:
        if self.world.now.timestamp() >= self.until:
            return self.usual(request)
        self.in_outage.append(request)
        self.world.advance(self.takes_seconds)
        return self.exchange


@pytest.mark.parametrize(
    ("exchange", "takes_seconds"),
    [
        (Failed(False, FailureCause.CONNECT_FAILED), 0.0),
        (lost_reply(), 3.0),
        (refused(503), 0.0),
        (refused(429), 0.0),
        (refused(429, retry_after="120"), 0.0),
        (refused(401), 0.0),
    ],
    ids=["refused connections", "silence", "503", "429", "429 with a long time", "401"],
)
async def test_an_hour_without_visa_ends_with_every_payout_paid_once(
    world: World, exchange: Exchange, takes_seconds: float
) -> None:
    """K5, S7, P3: no budget spent, nothing compensated, nothing held, and most payouts never noticed."""
    # An hour has few probes then, so that few payouts are enough to see most of them wait.
    world.settings = world.settings.model_copy(update={"visa_probe_max_seconds": 120.0})
    world.worker = world.start_worker()
    outage = Outage(world, exchange, takes_seconds=takes_seconds)
    ids = [f"payout-{number:04d}" for number in range(60)]
    for payout_id in ids:
        await world.ask(payout_id)
    for _ in range(20):
        await world.settle(seconds=400)
    rows = [await world.row(payout_id) for payout_id in ids]
    assert world.now.timestamp() >= outage.until
    assert {(row.state.value, row.held, row.ambiguous, row.own_failures) for row in rows} == {("PAID", False, False, 0)}
    assert len(world.visa.pushes) == len(ids), "each paid once"
    assert not world.broker.topics["payout_failed_requires_compensation"]
    assert world.worker.calls.pauses.reasons == ()
    untouched = sum(row.attempts == 1 and row.systemic_refusals == 0 and row.inquiries == 0 for row in rows)
    assert untouched >= 10, "who had not begun waited in the topic"
    assert len(outage.in_outage) < 100, "an hour of probes, not of hammering"


async def test_silence_pauses_first_intents_before_it_makes_everybody_unknown(world: World) -> None:
    """K5, P3: an hour of silence makes UNKNOWN what probed, not what waits."""
    world.visa.usual = lambda _: lost_reply()  # type: ignore[method-assign]
    for number in range(12):
        await world.ask(f"payout-{number:04d}")
    pauses = world.worker.calls.pauses
    waiting = asyncio.Event()

    async def no_time_passes(event: asyncio.Event, _: float | None) -> None:
        waiting.set()
        await event.wait()

    pauses.lane(CallKind.PUSH)._sleep = no_time_passes
    delivering = asyncio.create_task(world.deliver_all())
    await asyncio.wait_for(waiting.wait(), 10.0)
    states = [row.state.value for row in world.rows()]
    assert states.count("UNKNOWN") == world.settings.visa_pause_after_failures
    assert states.count("CLEARED") == 12 - world.settings.visa_pause_after_failures, "validation went on"
    assert all(row.lease_owner is None for row in world.rows()), "who waits holds no lease (L3)"
    assert pauses.reasons == ("visa:READ_TIMEOUT",)
    pauses.stop()
    await asyncio.wait_for(delivering, 10.0)
    assert [row.state.value for row in world.rows()] == states


async def test_who_waited_decides_anew(world: World) -> None:
    """K5, P3: a payout whose time ran out while it waited ends EXPIRED and is not pushed."""
    pauses = world.worker.calls.pauses
    lane = pauses.lane(CallKind.PUSH)
    lane.conclude(Turn(False), CREDENTIALS)
    await world.ask("payout-0001", expires_at=world.now + timedelta(seconds=2))
    await world.settle()
    row = await world.row("payout-0001")
    assert (row.state, row.attempts, world.visa.calls(PUSH)) == ("EXPIRED", 0, [])
    await world.ask("payout-0002")
    await world.settle()
    assert (await world.row("payout-0002")).state == "PAID"


async def test_what_the_schedule_drives_does_not_wait_for_visa(world: World) -> None:
    """K4, K5: questions go on while pushes pause, so a paused push must not hold the retry agent's places."""
    world.visa.script[PUSH] = [lambda _: refused(429), lambda _: lost_reply()]
    for payout_id in ("payout-0001", "payout-0002"):
        await world.ask(payout_id)
    await world.deliver_all()
    pauses = world.worker.calls.pauses
    pauses.lane(CallKind.PUSH).conclude(Turn(False), CREDENTIALS)

    async def nobody_may_wait(*_: Any) -> None:
        raise AssertionError("a scheduled drive waited")

    pauses.lane(CallKind.PUSH)._sleep = nobody_may_wait
    before = await world.row("payout-0001")
    for payout_id in ("payout-0001", "payout-0002"):
        await world.worker.driver.drive(await world.row(payout_id))
    assert await world.row("payout-0001") == before, "a paused payout spends no version"
    assert len(world.visa.calls(QUERY)) == 1


async def test_the_sweeper_drives_a_trickle_while_calls_pause(world: World) -> None:
    """K4, K5: enough to probe with, no burst of events that can only wait."""
    for number in range(TRICKLE_MAX + 5):
        await world.ask(f"payout-{number:04d}")
    topics = world.worker.handlers
    for topic in ("payout_requests", "payout_validated"):
        for record in list(world.broker.topics[topic]):
            await topics[topic](record)
    for row in world.rows():
        await world.put_row(row, due_at=world.now, state_version=row.version - 1)
    world.worker.calls.pauses.lane(CallKind.PUSH).conclude(Turn(False), CREDENTIALS)
    await world.worker.sweeper.sweep()
    assert len(world.broker.topics["payout_retry"]) == TRICKLE_MAX
    world.worker.calls.pauses.lane(CallKind.PUSH).conclude(Turn(False), PAID)
    await world.worker.sweeper.sweep()
    assert len(world.broker.topics["payout_retry"]) == TRICKLE_MAX + 5


async def test_the_permit_of_a_failing_drive_is_given_back(world: World) -> None:
    """K5: a probe whose database went away lets the next one probe."""
    await world.ask("payout-0001")
    lane = world.worker.calls.pauses.lane(CallKind.PUSH)
    lane.conclude(Turn(False), CREDENTIALS)
    world.advance(10.0)
    with contextlib.suppress(RuntimeError):
        async with world.worker.calls.permit(CallKind.PUSH, "acme", patient=False) as permit:
            assert permit is not None
            assert permit.turn.is_probe
            raise RuntimeError("the database, for example")
    assert lane.pause.seconds_to_probe() == 0.0


def test_an_answer_that_comes_late_opens_the_lane() -> None:
    """K5: any answer shows that Visa serves."""
    lane = lanes().lane(CallKind.PUSH)
    earlier = lane.enter()
    assert earlier is not None
    lane.conclude(Turn(False), CREDENTIALS)
    assert lane.enter() is None
    lane.conclude(earlier, PAID)
    assert lane.enter() is not None


ERRORS_SECONDS = 1800.0


async def test_an_outage_in_which_visa_answers_500_brings_no_payout_to_a_person(world: World) -> None:
    """S7, K5: what pauses the lane because Visa serves nobody is not, at the same time, the payout's own failure."""
    world.schedule = Schedule.production()
    world.worker = world.start_worker()
    over_at = world.now + timedelta(seconds=ERRORS_SECONDS)
    usual = world.visa.push

    def broken(request: VisaRequest) -> Exchange:
        return refused(500) if world.now < over_at else usual(request)

    world.visa.push = broken  # type: ignore[method-assign]
    for number in range(12):
        await world.ask(f"payout-{number:04d}")
    while world.now < over_at + timedelta(seconds=1200):
        await world.settle(seconds=5)
        world.advance(5)
    rows = world.rows()
    assert {(row.state, row.hold_reason) for row in rows} == {("PAID", None)}


async def test_a_lane_that_nobody_needs_any_more_does_not_slow_everything_for_ever(world: World) -> None:
    """K4, K5: reversals timed out once; hours later nothing is left to reverse, and the rest must go on as usual."""
    pauses = world.worker.calls.pauses
    world.visa.reverse = lambda _: lost_reply()  # type: ignore[method-assign, assignment]
    for number in range(world.settings.visa_pause_after_failures):
        world.visa.script[PUSH].append(lambda _: approved("05"))
        name = f"payout-{number:04d}"
        await world.ask(name, funding=world.card_pull(name))
        await world.settle(seconds=60)
    assert {row.compensation for row in world.rows()} == {"MANUAL"}, "no reversal is left to be made"
    world.advance(6 * 3600)
    await world.settle(seconds=60)
    assert pauses.reasons == (), "the sweeper trickles, the standstill watchdog is off, health says failing: for ever"


# --- no key to encrypt to -----------------------------------------------------------------------------------------


def test_all_lanes_are_shut_and_reopened_together_and_a_lanes_own_pause_outlives_it() -> None:
    """S0-13, K5: without a key no call of any kind leaves; a key says nothing about who serves."""
    pauses = lanes()
    fail(pauses, CallKind.QUERY, SILENT)
    pauses.shut("keys:UNAVAILABLE", why="away")
    assert [pauses.lane(call).enter() for call in CallKind] == [None] * len(CallKind)
    assert not any(pauses.lane(call).may_enter for call in CallKind), "nobody takes a place for a lane that is shut"
    assert pauses.reasons == ("keys:UNAVAILABLE", "visa:READ_TIMEOUT")
    assert pauses.stop_payouts
    pauses.reopen()
    assert pauses.lane(CallKind.PUSH).enter() is not None
    assert (pauses.lane(CallKind.QUERY).enter(), pauses.reasons) == (None, ("visa:READ_TIMEOUT",))


@pytest.mark.parametrize("end", ["reopen", "stop"])
async def test_who_waits_for_a_key_looks_again_when_it_is_there_or_the_worker_stops(end: str) -> None:
    """K5: nobody spins, nobody is forgotten."""
    waits: list[float | None] = []

    async def sleep(event: asyncio.Event, seconds: float | None) -> None:
        waits.append(seconds)
        await event.wait()

    pauses = VisaPauses(after_failures=2, probe_max_seconds=8.0, clock=Now(), metrics=Metrics(), sleep=sleep)
    pauses.shut("keys:UNAVAILABLE", why="away")
    assert pauses.stop_payouts, "the sweeper drives no more than a trickle"
    waiting = asyncio.create_task(pauses.lane(CallKind.PUSH).wait())
    await asyncio.sleep(0)
    assert waits == [None], "until something changes, not until a probe is due"
    getattr(pauses, end)()
    assert await asyncio.wait_for(waiting, 10.0) is (end == "reopen")


async def test_ten_minutes_without_keys_end_with_every_payout_paid_once(world: World) -> None:
    """S0-13, S1-06, F-05: the breaker opens, payouts wait where they are, and one fetch lets them all go on."""
    pauses = world.worker.calls.pauses
    begins, ends = world.now.timestamp() + 600.0, world.now.timestamp() + 1200.0
    public = jwk.JWK.generate(kty="RSA", size=2048).export_public(as_dict=True)
    asked: list[float] = []

    def now() -> float:
        return world.now.timestamp()

    async def fetch() -> bytes:
        asked.append(now())
        if len(asked) > 1 and now() < ends:
            raise OSError("away")
        return json.dumps({"keys": [{**public, "kid": "key-1"}]}).encode()

    keys = JwksKeys(fetch, breaker=Breaker("jwks", clock=now), clock=now)

    async def look() -> None:
        try:
            await keys.get("key-1")
            pauses.reopen()
        except KeysUnavailable as error:
            pauses.shut("keys:UNAVAILABLE", why=str(error))

    async def let_pass(event: asyncio.Event, seconds: float | None) -> None:
        assert seconds is None, "only the keys are away"
        if not event.is_set():
            world.advance(1.0)
            await look()

    for lane in {pauses.lane(call) for call in CallKind}:
        lane._sleep = let_pass
    await look()
    world.advance(600.0)
    for _ in range(10):
        world.advance(1.0)
        await look()
        for _ in range(5):
            await asyncio.sleep(0)
    assert pauses.reasons == ("keys:UNAVAILABLE",)
    ids = [f"payout-{number:04d}" for number in range(30)]
    for payout_id in ids:
        await world.ask(payout_id)
    for _ in range(5):
        await world.settle(seconds=30)
    rows = [await world.row(payout_id) for payout_id in ids]
    assert now() >= ends > begins
    assert pauses.reasons == ()
    assert {(row.state.value, row.attempts, row.systemic_refusals, row.inquiries) for row in rows} == {
        ("PAID", 1, 0, 0)
    }
    assert len(world.visa.pushes) == len(ids), "each paid once"
    assert not world.broker.topics["payout_failed_requires_compensation"]
    assert len(asked) < 20, "one fetch a minute, not one a payout"
