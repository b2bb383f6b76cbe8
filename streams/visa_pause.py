"""Calls to Visa pause while Visa serves nobody, so that an outage spends no payout's time or budget (rules K5, S7).

Each kind of call has a lane of its own: a push that nobody answers says nothing about a query that somebody does.

    PUSH · ACCOUNT_SEND · REVERSE · ADJUST · QUESTIONS (status and queries) · PREFLIGHT (before the first intent)

A lane pauses after some failures in a row that are not one payout's own: no connection, silence, 5xx, 429; at once when
credentials or the URL are refused, or when a 429 names a long time. From then on one call at a time may try, after 1 s,
2 s, 4 s, … up to a bound; the first answer opens the lane for all. Who waits holds no lease and has written nothing.

All lanes are shut together while there is no key to encrypt to: that is known before a call, so nobody probes for it,
and whoever brings the key opens them (`shut`, `reopen`).

What fails while its lane is paused is not the payout's own failure: the pause says that it is everybody's. A pause
that nobody runs into any more is not reported: the next caller is still the only one who tries, but nothing else slows
down for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from processors.payout.events import CallKind
from processors.payout.outcome import STAGE_STOPPING_REFUSALS, Outcome, OutcomeKind, Refusal
from processors.visa.exchange import FailureCause
from streams.metrics import Metrics

log = logging.getLogger(__name__)

PROBE_FIRST_SECONDS = 1.0
"""From the pause to the first probe: most failures are a restart of something and over at once."""
REPAIR_SECONDS = 5.0
"""The same where a person must repair credentials or a URL: sooner than that nobody does."""
LONG_RETRY_AFTER_SECONDS = 10.0
"""A 429 that asks for this long speaks of the enrolment's rate, not of one call: it pauses the lane at once."""
HONOURED_SECONDS_MAX = 300.0
"""The longest Retry-After that keeps the whole lane waiting: a typo of a peer must not stop a worker for an hour."""
NOBODY_ASKS_SECONDS = 600.0
"""Without anybody taking a possible probe for this long, nobody needs the lane: every schedule asks more often."""
OUR_OWN_CAUSES = frozenset({FailureCause.DEADLINE_PASSED, FailureCause.POOL_TIMEOUT})
"""Failures before the first byte that say nothing about Visa: our deadline, our pool."""


class Evidence(StrEnum):
    """What one call's outcome says about Visa, whatever it says about the payout."""

    ANSWERED = "ANSWERED"
    AWAY = "AWAY"
    NONE = "NONE"


def evidence(outcome: Outcome) -> Evidence:
    """Whether Visa serves: an answer about the payout says yes, even a decline; silence and refusals of all say no."""
    match outcome.kind:
        case OutcomeKind.REFUSED if outcome.refusal is Refusal.REQUEST_INVALID:
            return Evidence.ANSWERED
        case OutcomeKind.REFUSED:
            return Evidence.NONE if outcome.reason_code in OUR_OWN_CAUSES else Evidence.AWAY
        case OutcomeKind.UNKNOWN if outcome.action_code is not None and not outcome.systemic:
            return Evidence.ANSWERED
        case OutcomeKind.UNKNOWN if outcome.http_status is not None and 400 <= outcome.http_status < 500:
            return Evidence.NONE
        case OutcomeKind.UNKNOWN:
            return Evidence.AWAY
        case _:
            return Evidence.ANSWERED


def needs_repair(outcome: Outcome) -> bool:
    """Credentials, certificates and wrong URLs fail every payout alike, until a person repairs them.

    In TLS 1.3 a refused client certificate shows only after the request was sent: ambiguous, and systemic (S4).
    """
    refused = outcome.kind is OutcomeKind.REFUSED and outcome.refusal in STAGE_STOPPING_REFUSALS
    return refused or (outcome.kind is OutcomeKind.UNKNOWN and outcome.systemic)


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """Permission for one call; each is its own."""

    is_probe: bool


class Pause:
    """One lane's memory: failures in a row, and while paused who probes and when the next may. Pure but for the clock.

    `clock` counts seconds and never goes back. Every turn given by `admit` ends in `answered`, `failed`, `unclear`
    or `left`.
    """

    def __init__(self, *, after_failures: int, probe_max_seconds: float, clock: Callable[[], float]) -> None:
        self._after_failures = after_failures
        self._probe_max_seconds = probe_max_seconds
        self._clock = clock
        self._failures = 0
        self._probing: Turn | None = None
        self._probe_at = 0.0
        self._pause_seconds = PROBE_FIRST_SECONDS
        self.reason: str | None = None
        """Why the lane is paused; None while it is open."""

    @property
    def felt_reason(self) -> str | None:
        """Why the lane is paused, if anybody feels it: None when a probe was possible for long and nobody wanted it."""
        unwanted = self._probing is None and self._clock() - self._probe_at >= NOBODY_ASKS_SECONDS
        return None if unwanted else self.reason

    def admit(self) -> Turn | None:
        """A turn, or None when the caller has to wait or to leave it."""
        if self.reason is None:
            return Turn(is_probe=False)
        if self.seconds_to_probe() != 0.0:
            return None
        self._probing = Turn(is_probe=True)
        return self._probing

    def seconds_to_probe(self) -> float | None:
        """How long until somebody may try; None while a probe is under way, whose end will tell."""
        if self.reason is None:
            return 0.0
        return None if self._probing is not None else max(0.0, self._probe_at - self._clock())

    def answered(self, _: Turn) -> None:
        """Visa answered, whoever asked and however long ago: all may go on."""
        self._failures = 0
        self._probing = None
        self._pause_seconds = PROBE_FIRST_SECONDS
        self.reason = None

    def failed(self, turn: Turn, reason: str, *, at_once: bool = False, wait_seconds: float = 0.0) -> None:
        """Visa served nobody. What was under way when the pause began adds nothing to it."""
        if self.reason is None:
            self._failures += 1
            if at_once or self._failures >= self._after_failures:
                self._wait(reason, wait_seconds)
        elif turn is self._probing:
            self._probing = None
            self._pause_seconds = min(self._pause_seconds * 2, self._probe_max_seconds)
            self._wait(reason, wait_seconds)

    def unclear(self, turn: Turn) -> None:
        """Bytes went out, and what came back says nothing about Visa: the next probe is due as late as this one was."""
        if turn is self._probing and self.reason is not None:
            self._probing = None
            self._wait(self.reason, 0.0)

    def left(self, turn: Turn) -> None:
        """The turn ended without a call: the next may probe at once."""
        if turn is self._probing:
            self._probing = None

    def _wait(self, reason: str, wait_seconds: float) -> None:
        self.reason = reason
        self._probe_at = self._clock() + max(self._pause_seconds, min(wait_seconds, HONOURED_SECONDS_MAX))


Sleep = Callable[[asyncio.Event, float | None], Awaitable[None]]


async def until_set_or_over(event: asyncio.Event, seconds: float | None) -> None:
    """Return when the event is set, or after the seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


class Lane:
    """One kind of call, and those who wait for it."""

    def __init__(self, name: str, pause: Pause, metrics: Metrics, sleep: Sleep) -> None:
        self.name = name
        self.pause = pause
        self._sleep = sleep
        self._changed = asyncio.Event()
        self._stopping = False
        self._is_shut = False
        self._pauses = metrics.lane_pauses.labels(name)
        metrics.visa_paused.labels(name).set_function(lambda: int(self._is_shut or pause.felt_reason is not None))

    @property
    def may_enter(self) -> bool:
        """Whether somebody may try now: a look that costs nothing and takes nothing."""
        return not self._is_shut and self.pause.seconds_to_probe() == 0.0

    def enter(self) -> Turn | None:
        """A turn for one call, or None while paused or shut."""
        return None if self._is_shut else self.pause.admit()

    async def wait(self) -> bool:
        """Return True when it is worth trying again, False when the worker stops and nobody should wait."""
        if not self._stopping:
            await self._sleep(self._changed, None if self._is_shut else self.pause.seconds_to_probe())
        return not self._stopping

    def conclude(self, turn: Turn, outcome: Outcome) -> Outcome:
        """Learn from what a call came to; the outcome as it counts for its payout (rule S7).

        An answer about the payout opens the lane. So what ends while the lane is paused, or pauses it, is one more sign
        of what fails everybody: it spends nothing of this payout's budget.
        """
        before = self.pause.reason
        match evidence(outcome):
            case Evidence.ANSWERED:
                self.pause.answered(turn)
            case Evidence.AWAY:
                self._failed(turn, outcome)
            case Evidence.NONE:
                self.pause.unclear(turn)
        self._tell(before)
        return outcome if self.pause.reason is None else replace(outcome, systemic=True)

    def served(self, turn: Turn) -> None:
        """The call was answered, and no payout's outcome says how."""
        before = self.pause.reason
        self.pause.answered(turn)
        self._tell(before)

    def leave(self, turn: Turn) -> None:
        """The turn is over, whether or not a call was made."""
        self.pause.left(turn)
        self._wake()

    def shut(self, is_shut: bool) -> None:
        """Let nobody enter, or let everybody look again."""
        self._is_shut = is_shut
        self._wake()

    def stop(self) -> None:
        """Let nobody wait any more."""
        self._stopping = True
        self._wake()

    def _failed(self, turn: Turn, outcome: Outcome) -> None:
        asked_seconds = outcome.retry_after_seconds or 0.0
        repair = needs_repair(outcome)
        limited = outcome.refusal is Refusal.RATE_LIMITED and asked_seconds >= LONG_RETRY_AFTER_SECONDS
        if repair and self.pause.reason is None:
            log.critical("the stage stops", extra={"refusal": outcome.refusal, "reason_code": outcome.reason_code})
        self.pause.failed(
            turn,
            f"visa:{outcome.refusal or outcome.reason_code}",
            at_once=repair or limited,
            wait_seconds=max(asked_seconds, REPAIR_SECONDS if repair else 0.0),
        )

    def _tell(self, before: str | None) -> None:
        now = self.pause.reason
        if (before is None) != (now is None):
            what = "calls to Visa resumed" if now is None else "calls to Visa paused"
            self._pauses.inc(now is not None)
            log.warning(what, extra={"lane": self.name, "reason": now or before})
        self._wake()

    def _wake(self) -> None:
        """Everybody who waits looks again; whoever comes later waits for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()


QUESTIONS = "QUESTIONS"
PREFLIGHT = "PREFLIGHT"
"""Questions before the first intent: products of their own at Visa, which fail by themselves."""
LANE_OF = {
    CallKind.PUSH: "PUSH",
    CallKind.ACCOUNT_SEND: "ACCOUNT_SEND",
    CallKind.REVERSE: "REVERSE",
    CallKind.ADJUST: "ADJUST",
    CallKind.STATUS: QUESTIONS,
    CallKind.QUERY: QUESTIONS,
    CallKind.ACCOUNT_QUERY: QUESTIONS,
    CallKind.REVERSAL_QUERY: QUESTIONS,
    CallKind.ADJUSTMENT_QUERY: QUESTIONS,
}
NEEDED_BY_ALL = (LANE_OF[CallKind.PUSH], QUESTIONS)


class VisaPauses:
    """The lanes of one worker."""

    def __init__(
        self,
        *,
        after_failures: int,
        probe_max_seconds: float,
        clock: Callable[[], float],
        metrics: Metrics,
        sleep: Sleep = until_set_or_over,
    ) -> None:
        def lane(name: str) -> Lane:
            pause = Pause(after_failures=after_failures, probe_max_seconds=probe_max_seconds, clock=clock)
            return Lane(name, pause, metrics, sleep)

        self._lanes = {name: lane(name) for name in sorted({*LANE_OF.values(), PREFLIGHT})}
        self._shut_for: str | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why calls pause; empty when none does, or nobody has wanted those that do for long."""
        felt = {reason for lane in self._lanes.values() if (reason := lane.pause.felt_reason) is not None}
        return tuple(sorted(felt | ({self._shut_for} if self._shut_for else set())))

    @property
    def stop_payouts(self) -> bool:
        """Whether what every payout needs is paused; a paused hand-back stops hand-backs, and nothing else (K4)."""
        if self._shut_for is not None:
            return True
        return any(self._lanes[name].pause.felt_reason is not None for name in NEEDED_BY_ALL)

    def shut(self, reason: str, *, why: str) -> None:
        """No call of any kind may leave until `reopen`; those under way go on."""
        if reason == self._shut_for:
            return
        if self._shut_for is None:
            log.critical("calls to Visa paused", extra={"lane": "ALL", "reason": reason, "why": why})
        self._shut_for = reason
        for lane in self._lanes.values():
            lane.shut(True)

    def reopen(self) -> None:
        """What `shut` was for is over; what paused a lane by itself is not."""
        if self._shut_for is not None:
            log.warning("calls to Visa resumed", extra={"lane": "ALL", "reason": self._shut_for})
            self._shut_for = None
            for lane in self._lanes.values():
                lane.shut(False)

    def lane(self, call: CallKind) -> Lane:
        """The lane that this kind of call belongs to."""
        return self._lanes[LANE_OF[call]]

    @property
    def preflight(self) -> Lane:
        """The lane of the questions before the first intent."""
        return self._lanes[PREFLIGHT]

    def stop(self) -> None:
        """The worker stops: nobody waits for Visa any more; what is not done is driven again later."""
        for lane in self._lanes.values():
            lane.stop()
