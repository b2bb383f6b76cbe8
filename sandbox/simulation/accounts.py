"""The account and wallet rail of the simulated Visa: every send that arrives pays, statuses move, money comes back.

What a second send under one reference does is documented nowhere, so here it pays a second time: the worst that it can
do. Two payments of one payout are seen at once by `watch`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from sandbox.simulation.plan import CardPlan
from sandbox.simulation.virtual_loop import context_of

if TYPE_CHECKING:
    from processors.visa.exchange import Exchange
    from sandbox.simulation.visa import Effect, SimulatedVisa

DELIVERED_AFTER_SECONDS: Final = (0.1, 12.0)
RETURNED_AFTER_SECONDS: Final = (0.1, 15.0)
"""Before anybody has heard that it was delivered, or after it was reported paid."""
FRESH_SECONDS: Final = 2.0
UNLISTED_STATUS: Final = "PAYMENT_MISLAID"


@dataclass(slots=True)
class AccountPayout:
    """One send that arrived."""

    detail: Mapping[str, Any]
    at_seconds: float
    status: str = "PAYMENT_RECEIVED"


@dataclass
class AccountRail:
    """What arrived, by our reference."""

    visa: SimulatedVisa
    known: dict[str, list[AccountPayout]] = field(default_factory=lambda: defaultdict(list))

    def send(self, payout_id: str, body: Mapping[str, Any], *, at_once: bool) -> AccountPayout | None:
        """A send arrives: taken, and decided later or at once; None when it is refused for good."""
        plan = self.visa.world.plans[payout_id]
        if plan.card is CardPlan.INVALID:
            return None
        detail = body["transactionDetail"]
        payout = AccountPayout(detail, self.visa.world.now_seconds)
        self.known[str(detail["clientReferenceId"])].append(payout)
        after = 0.0 if at_once else self.visa.rng.uniform(*DELIVERED_AFTER_SECONDS)
        if after:
            self._later(after, self._decide, payout_id, payout)
        else:
            self._decide(payout_id, payout)
        return payout

    def query(self, reference: str, *, stale: bool) -> list[dict[str, Any]]:
        """What is known under a reference; stale: not yet known right after the send, else an earlier status."""
        now = self.visa.world.now_seconds
        found = self.known.get(reference, [])
        if stale and any(now - payout.at_seconds < FRESH_SECONDS for payout in found):
            return []
        return [shown(payout) | ({"status": "PAYMENT_SENT"} if stale else {}) for payout in found]

    def _decide(self, payout_id: str, payout: AccountPayout) -> None:
        plan = self.visa.world.plans[payout_id]
        match plan.card:
            case CardPlan.DECLINE:
                payout.status = "REJECTED" if plan.number % 2 else "CANCELLED"
            case CardPlan.UNLISTED:
                payout.status = UNLISTED_STATUS
            case _:
                payout.status = "PAYMENT_DELIVERED"
                effect = self.visa.delivered(payout_id, payout.detail)
                if plan.comes_back:
                    self._later(self.visa.rng.uniform(*RETURNED_AFTER_SECONDS), self._bring_back, payout, effect)

    def _bring_back(self, payout: AccountPayout, effect: Effect) -> None:
        payout.status = "RETURNED"
        effect.returned = True

    def _later(self, seconds: float, act: Callable[..., object], *arguments: Any) -> None:
        self.visa.world.loop.call_later(seconds, act, *arguments, context=context_of(None))


def shown(payout: AccountPayout) -> dict[str, Any]:
    """How Visa's answers show it."""
    same = ("clientReferenceId", "transactionAmount", "transactionCurrencyCode")
    return {
        "payoutId": "A-1",
        "status": payout.status,
        "transactionDetail": {name: payout.detail[name] for name in same},
    }


def money_of(detail: Mapping[str, Any], minor_digits: Mapping[str, int]) -> tuple[int, str]:
    """Minor units and currency of a send."""
    currency = str(detail["transactionCurrencyCode"])
    return int(Decimal(str(detail["transactionAmount"])) * 10 ** minor_digits[currency]), currency


def found(rows: list[dict[str, Any]], answer: Callable[[int, Mapping[str, str], object], Exchange]) -> Exchange:
    """The answer to a query."""
    return answer(200, {}, rows) if rows else answer(404, {}, {"errorResponse": {"status": 404}})
