"""Gauges of what the ledger holds. Every worker shows the same: use `max`, never `sum`.

Counting reads the whole table, so it is done seldom, and the more seldom the longer it takes. There is never a number
that is not known: while the database does not answer, the gauges grow old, and then they are gone.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final, Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ledger.figures import LedgerFigures
from ledger.interface import LedgerError, ModeNotKnown, ModeRecord
from processors.reconciliation.exception_kinds import ExceptionKind
from streams.metric_labels import OTHER
from streams.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_EVERY_SECONDS: Final = 15.0
"""A scrape interval is as fresh as anybody looks."""
REST_PER_SECOND: Final = 20.0
"""A look that takes a second is followed by so many of rest: a twentieth of one connection at most."""
SHOWN_SECONDS: Final = 120.0
"""How long a look is shown when none follows, or twice the rest before the next one where that is longer."""


class LooksAtLedger(Protocol):
    """What is looked at: `ledger.postgres.PostgresLedger`."""

    async def mode(self) -> ModeRecord:
        """See `ledger.interface.Ledger`."""


Look = Callable[[], Awaitable[LedgerFigures]]


class FiguresShown(Collector):
    """The last look as metrics, while it is young enough."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._figures: LedgerFigures | None = None
        self._looked_at = 0.0
        self._took_seconds = 0.0

    @property
    def rest_seconds(self) -> float:
        """From the end of the last look to the next one."""
        return max(LOOK_EVERY_SECONDS, REST_PER_SECOND * self._took_seconds)

    def took(self, figures: LedgerFigures, seconds: float) -> None:
        """A look that succeeded, and how long it took."""
        self._figures, self._looked_at, self._took_seconds = figures, self._clock(), seconds

    def failed(self, seconds: float) -> None:
        """A look that brought nothing after so many seconds: the next one comes the later for it."""
        self._took_seconds = seconds

    def collect(self) -> Iterator[Metric]:
        """Every family; without samples, but for when the last look was, once it is too old."""
        figures = self._figures
        if figures is not None and self._clock() - self._looked_at > max(SHOWN_SECONDS, 2 * self.rest_seconds):
            figures = None
        yield from _by_label(figures)
        yield from _of_reconciliations(figures)
        for name, text, value in _PLAIN:
            yield _gauge(name, text, None if figures is None else value(figures))
        known = self._figures is not None
        yield _gauge(
            "payouts_ledger_figures_timestamp_seconds",
            "When the ledger was counted last.",
            self._looked_at if known else None,
        )
        yield _gauge(
            "payouts_ledger_figures_seconds", "Seconds that counting took.", self._took_seconds if known else None
        )


_PLAIN: Final[tuple[tuple[str, str, Callable[[LedgerFigures], float]], ...]] = (
    (
        "payouts_oldest_unknown_seconds",
        "Age of the oldest payout in UNKNOWN since its first attempt; 0 without any.",
        lambda figures: figures.unknown_oldest_seconds,
    ),
    ("manual_review_pending", "Open review cases.", lambda figures: figures.by_status["IN_REVIEW"]),
    (
        "manual_review_oldest_seconds",
        "Age of the oldest open review case; 0 without any.",
        lambda figures: figures.review_oldest_seconds,
    ),
    ("payouts_held", "Payouts with the hold flag.", lambda figures: figures.held),
    (
        "payouts_unannounced",
        "Payouts whose last event the broker has not confirmed.",
        lambda figures: figures.unannounced,
    ),
    ("payouts_leased", "Payouts for which a call may be under way.", lambda figures: figures.leased),
    ("retry_backlog", "Payouts that are due and not driven yet.", lambda figures: figures.due),
    (
        "retry_oldest_seconds",
        "For how long the longest overdue payout is due; 0 without any.",
        lambda figures: figures.due_oldest_seconds,
    ),
    ("compensation_pending", "Funding to be handed back.", lambda figures: figures.compensation_pending),
    (
        "compensation_manual",
        "Funding that only a person can hand back.",
        lambda figures: figures.compensation_manual,
    ),
    (
        "compensation_oldest_seconds",
        "Age of the oldest pending compensation since its last step; 0 without any.",
        lambda figures: figures.compensation_oldest_seconds,
    ),
    (
        "compensation_aft_oldest_seconds",
        "Since its capture, of the oldest card pull to be handed back; 0 without any. Reversed before 24 h.",
        lambda figures: figures.compensation_pull_oldest_seconds,
    ),
    ("dlq_parked", "Dead letters that nobody has put back or discarded.", lambda figures: figures.letters_parked),
    (
        "payouts_history_unpublished",
        "Lines of the history that the broker has not confirmed.",
        lambda figures: figures.history_unpublished,
    ),
    (
        "payouts_history_oldest_unpublished_seconds",
        "Age of the oldest line that the broker has not confirmed; 0 without any.",
        lambda figures: figures.history_oldest_unpublished_seconds,
    ),
    (
        "reconciliation_last_success_timestamp_seconds",
        "When the last reconciliation of the last days ended; 0 when there never was one.",
        lambda figures: figures.reconciliation.last_at,
    ),
    (
        "reconciliation_last_visa_timestamp_seconds",
        "When the last reconciliation ended that had Visa's report; 0 when there never was one.",
        lambda figures: figures.reconciliation.last_visa_at,
    ),
    (
        "reconciliation_matched_items",
        "Payouts in the last reconciliation about which everything that was compared agrees.",
        lambda figures: figures.reconciliation.matched,
    ),
    (
        "reconciliation_unmatched_items",
        "Open exceptions of all days: found, not gone, explained by nobody.",
        lambda figures: sum(figures.reconciliation.open_by_kind.values()),
    ),
)


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric([], value)
    return family


def _by_label(figures: LedgerFigures | None) -> Iterator[Metric]:
    by_status = GaugeMetricFamily("payouts_by_status", "Payouts by state.", labels=["status"])
    stuck = GaugeMetricFamily(
        "payouts_stuck", "Payouts that have waited too long, and for no person, by state.", labels=["status"]
    )
    waiting = GaugeMetricFamily("payouts_waiting_for_person", "Payouts that only a person ends.", labels=["why"])
    if figures is not None:
        for status, payouts in figures.by_status.items():
            by_status.add_metric([status], payouts)
        for status, payouts in figures.stuck_by_status.items():
            stuck.add_metric([status], payouts)
        for why, payouts in figures.waiting_for_person.items():
            waiting.add_metric([why.replace(" ", "_")], payouts)
    yield from (by_status, stuck, waiting)


def _of_reconciliations(figures: LedgerFigures | None) -> Iterator[Metric]:
    by_kind = GaugeMetricFamily("reconciliation_exceptions", "Open exceptions of all days, by kind.", labels=["type"])
    difference = GaugeMetricFamily(
        "reconciliation_amount_difference_minor",
        "Visa's sum less ours in minor units, of the last reconciliation that had Visa's report.",
        labels=["currency"],
    )
    if figures is not None:
        for kind, exceptions in _open_by_type(figures.reconciliation.open_by_kind).items():
            by_kind.add_metric([kind], exceptions)
        for currency, minor_units in figures.reconciliation.visa_minus_ledger.items():
            difference.add_metric([currency], minor_units)
    yield from (by_kind, difference)


def _open_by_type(open_by_kind: Mapping[str, int]) -> dict[str, int]:
    """Every kind that there is; what a newer release found is counted, too, and makes no label of its own."""
    found = dict.fromkeys((*(kind.value for kind in ExceptionKind), OTHER), 0)
    for kind, exceptions in open_by_kind.items():
        found[kind if kind in found else OTHER] += exceptions
    return found


class LedgerLooks:
    """Looks again and again, in every worker."""

    def __init__(self, ledger: LooksAtLedger, look: Look, metrics: Metrics) -> None:
        self._ledger = ledger
        self._look = look
        self._metrics = metrics
        self._shown = FiguresShown()
        metrics.registry.register(self._shown)

    async def look_forever(self) -> None:
        """Until cancelled; what fails is tried again after the same rest."""
        while True:
            try:
                await self.look()
            except LedgerError as error:
                log.warning("the ledger was not counted", extra={"error": type(error).__name__})
            except Exception:
                # Nothing is decided by figures: a word that this release does not know must not end the worker.
                log.exception("the ledger was not counted")
            await asyncio.sleep(self._shown.rest_seconds)

    async def look(self) -> None:
        """Once. Raises LedgerError."""
        try:
            await self._ledger.mode()
        except ModeNotKnown:
            log.warning("the mode is a word of a newer release")  # but the database answers
        except LedgerError:
            self._metrics.database_up.set(0)
            raise
        self._metrics.database_up.set(1)
        begun = time.monotonic()
        try:
            figures = await self._look()
        except LedgerError:
            self._shown.failed(time.monotonic() - begun)
            raise
        self._shown.took(figures, time.monotonic() - begun)
