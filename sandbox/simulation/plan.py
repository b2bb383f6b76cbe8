"""What one seed does: its payouts, its accidents, its people. Drawn once, before anything runs.

Each kind of accident is on or off as a whole, drawn first, and then as often as its own rate says: worlds with one
kind of trouble find what a mixture of all hides, and the other way round.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from processors.payout.row import FundingKind

DAY_SECONDS: Final = 86_400.0


class Verdict(StrEnum):
    """What validation and screening shall say."""

    CLEAR = "CLEAR"
    REJECT = "REJECT"
    REVIEW = "REVIEW"
    DENY = "DENY"


class CardPlan(StrEnum):
    """What the recipient's issuer does, whenever and however often it is asked."""

    APPROVE = "APPROVE"
    DECLINE = "DECLINE"
    UNLISTED = "UNLISTED"
    """An action code that no list names (S5)."""
    PARTIAL = "PARTIAL"
    """Code 10: a person decides."""
    INVALID = "INVALID"
    """400, for good."""


class Accident(StrEnum):
    """The kinds of trouble a world can have."""

    KILLS = "KILLS"
    FREEZES = "FREEZES"
    SCALING = "SCALING"
    DATABASE_OUTAGE = "DATABASE_OUTAGE"
    LOST_ANSWERS = "LOST_ANSWERS"
    BROKER_OUTAGE = "BROKER_OUTAGE"
    LOST_RECORDS = "LOST_RECORDS"
    REPLAYS = "REPLAYS"
    VISA_FAULTS = "VISA_FAULTS"
    VISA_OUTAGE = "VISA_OUTAGE"
    VISA_LONG_OUTAGE = "VISA_LONG_OUTAGE"
    VISA_LATE_EFFECTS = "VISA_LATE_EFFECTS"
    CLOCK_SKEW = "CLOCK_SKEW"
    OPERATORS = "OPERATORS"
    MODES = "MODES"


CHANCES: Final = {
    Accident.KILLS: 0.6,
    Accident.FREEZES: 0.5,
    Accident.SCALING: 0.3,
    Accident.DATABASE_OUTAGE: 0.3,
    Accident.LOST_ANSWERS: 0.5,
    Accident.BROKER_OUTAGE: 0.25,
    Accident.LOST_RECORDS: 0.2,
    Accident.REPLAYS: 0.15,
    Accident.VISA_FAULTS: 0.8,
    Accident.VISA_OUTAGE: 0.2,
    Accident.VISA_LONG_OUTAGE: 0.01,
    Accident.VISA_LATE_EFFECTS: 0.4,
    Accident.CLOCK_SKEW: 0.3,
    Accident.OPERATORS: 0.4,
    Accident.MODES: 0.2,
}
"""How often a world has this kind of trouble at all. A long outage takes days of virtual time, so it is rare."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Another record under the same payout_id."""

    after_seconds: float
    other_content: bool
    other_partition: bool
    """Made by a client library with another partitioner (L1)."""


@dataclass(frozen=True, slots=True)
class PayoutPlan:
    """One payout as its originator, its issuer and its reviewer mean it."""

    payout_id: str
    number: int
    originator: str
    at_seconds: float
    amount_minor: int
    currency: str
    funding: FundingKind
    captured: bool
    receipt: str
    pull_age_seconds: float
    pull_complete: bool
    verdict: Verdict
    reviewer_approves: bool
    card: CardPlan
    hand_back_declined: bool
    originator_completes: bool
    expires_in_seconds: float | None
    copies: tuple[Copy, ...]
    card_number_as_identifier: bool = False
    """The originator put a card number where the pull's identifier belongs: no call can be built, none may say why."""
    to_account: bool = False
    """To a bank account, by the rail that has no duplicate key (S3)."""
    comes_back: bool = False
    """An account payout that is delivered, and returned (S8)."""


@dataclass(frozen=True, slots=True)
class TimedAccident:
    """One accident at its time."""

    at_seconds: float
    kind: Accident
    seconds: float
    """How long it lasts, where it lasts."""


@dataclass(frozen=True, slots=True)
class WorldPlan:
    """One seed."""

    seed: int
    workers: int
    arrivals_seconds: float
    kinds: frozenset[Accident]
    payouts: tuple[PayoutPlan, ...]
    accidents: tuple[TimedAccident, ...]
    ends_at_seconds: float
    """After this nothing goes wrong any more, and everything must come to its end."""
    rubbish: int
    """Records of the request topic that nobody can read."""
    skews: tuple[float, ...] = field(default=())


ACCOUNTS_COME_BACK: Final = 0.1
"""Of account payouts that are delivered: far more than in life."""
RATES: Final = {
    Accident.KILLS: (1, 6),
    Accident.FREEZES: (1, 4),
    Accident.SCALING: (1, 2),
    Accident.DATABASE_OUTAGE: (1, 2),
    Accident.BROKER_OUTAGE: (1, 2),
    Accident.LOST_RECORDS: (1, 3),
    Accident.REPLAYS: (1, 2),
    Accident.VISA_OUTAGE: (1, 2),
    Accident.VISA_LONG_OUTAGE: (1, 1),
    Accident.OPERATORS: (3, 12),
    Accident.MODES: (1, 2),
}
LASTS_SECONDS: Final = {
    Accident.FREEZES: (1.0, 25.0),
    Accident.DATABASE_OUTAGE: (1.0, 20.0),
    Accident.BROKER_OUTAGE: (0.5, 12.0),
    Accident.VISA_OUTAGE: (5.0, 90.0),
    Accident.VISA_LONG_OUTAGE: (20 * 3600.0, 52 * 3600.0),
    Accident.MODES: (2.0, 15.0),
}


def draw(seed: int, payouts: int, *, always: frozenset[Accident] = frozenset()) -> WorldPlan:
    """Everything that a seed decides before its world begins; `always`: with this kind of trouble in any case."""
    rng = random.Random(f"world-{seed}")
    kinds = always | {kind for kind in Accident if rng.random() < CHANCES[kind]}
    arrivals = rng.uniform(10.0, 60.0)
    plans = tuple(_payout(seed, number, rng, arrivals) for number in range(payouts))
    plans = tuple(_with_shared_receipt(plan, plans, rng) for plan in plans)
    plans = _with_accounts(seed, plans)
    timed = sorted((_timed(kind, rng, arrivals) for kind in Accident for _ in range(_times(kind, kinds, rng))), key=_at)
    ends_at = max([arrivals + 5.0, *(accident.at_seconds + accident.seconds for accident in timed)])
    skews = tuple(rng.uniform(-1.0, 1.0) for _ in range(16)) if Accident.CLOCK_SKEW in kinds else (0.0,) * 16
    return WorldPlan(
        seed=seed,
        workers=rng.choice((1, 2, 2, 3)),
        arrivals_seconds=arrivals,
        kinds=kinds,
        payouts=plans,
        accidents=tuple(timed),
        ends_at_seconds=ends_at,
        rubbish=rng.choice((0, 0, 1, 3)),
        skews=skews,
    )


def _at(accident: TimedAccident) -> float:
    return accident.at_seconds


def _times(kind: Accident, kinds: frozenset[Accident], rng: random.Random) -> int:
    fewest, most = RATES.get(kind, (0, 0))
    return rng.randint(fewest, most) if kind in kinds else 0


def _timed(kind: Accident, rng: random.Random, arrivals: float) -> TimedAccident:
    shortest, longest = LASTS_SECONDS.get(kind, (0.0, 0.0))
    return TimedAccident(rng.uniform(0.5, arrivals + 20.0), kind, rng.uniform(shortest, longest))


def _payout(seed: int, number: int, rng: random.Random, arrivals: float) -> PayoutPlan:
    payout_id = f"sim-{seed}-{number:04d}"
    currency = rng.choices(("USD", "JPY", "KWD"), (6, 2, 2))[0]
    amount = rng.randint(1, 500_000)
    funding = rng.choices((FundingKind.INTERNAL, FundingKind.AFT, FundingKind.PIS), (3, 5, 2))[0]
    verdicts = (Verdict.CLEAR, Verdict.REJECT, Verdict.REVIEW, Verdict.DENY)
    cards = (CardPlan.APPROVE, CardPlan.DECLINE, CardPlan.UNLISTED, CardPlan.PARTIAL, CardPlan.INVALID)
    return PayoutPlan(
        payout_id=payout_id,
        number=number,
        originator=rng.choice(("acme", "globex")),
        at_seconds=rng.uniform(0.0, arrivals),
        amount_minor=amount * 10 if currency == "KWD" else amount,
        currency=currency,
        funding=funding,
        captured=rng.random() < 0.93,
        receipt=f"receipt-{payout_id}",
        pull_age_seconds=rng.choice((180.0, 180.0, 3600.0, DAY_SECONDS - 60.0, DAY_SECONDS - 5.0, DAY_SECONDS * 2)),
        pull_complete=rng.random() < 0.95,
        verdict=rng.choices(verdicts, (84, 4, 8, 4))[0],
        reviewer_approves=rng.random() < 0.7,
        card=rng.choices(cards, (76, 17, 3, 1, 3))[0],
        hand_back_declined=rng.random() < 0.1,
        originator_completes=rng.random() < 0.9,
        expires_in_seconds=rng.choice((None, None, None, None, None, 3.0, 30.0, 300.0)),
        copies=_copies(rng),
        card_number_as_identifier=funding is FundingKind.AFT and rng.random() < 0.01,
    )


def _copies(rng: random.Random) -> tuple[Copy, ...]:
    if rng.random() > 0.06:
        return ()
    return tuple(
        Copy(rng.choice((0.0, 0.01, 1.0, 20.0)), rng.random() < 0.4, rng.random() < 0.5)
        for _ in range(rng.randint(1, 3))
    )


def _with_accounts(seed: int, plans: tuple[PayoutPlan, ...]) -> tuple[PayoutPlan, ...]:
    """Every other world pays some of its payouts to accounts. Drawn apart, so that the others stay as they were.

    Not many: they are asked about for long, and a world should end.
    """
    rng = random.Random(f"accounts-{seed}")
    if rng.random() >= 0.5:
        return plans
    share = rng.choice((0.05, 0.2, 0.1))
    return tuple(
        replace(plan, to_account=rng.random() < share, comes_back=rng.random() < ACCOUNTS_COME_BACK) for plan in plans
    )


def _with_shared_receipt(plan: PayoutPlan, plans: Sequence[PayoutPlan], rng: random.Random) -> PayoutPlan:
    """Now and then one receipt under two payouts: the second owns nothing (L7)."""
    if rng.random() > 0.03:
        return plan
    other = rng.choice(plans)
    if other.funding is not plan.funding or other.payout_id == plan.payout_id:
        return plan
    # The pull's own numbers go with it: they are drawn from `number`.
    return replace(plan, receipt=other.receipt, originator=other.originator, number=other.number)
