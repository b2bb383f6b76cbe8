"""The lives that a payout is given: what Visa and the people do to it, and where it must end all the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sandbox.faults.load import PlannedPayout

UNSURE_REVERSAL: Final = ("ledger.begin reversal_intent after #1", "http.send REVERSE before #1")
"""Killed between the intent to reverse and its first byte: nothing left, and nobody can know. A reversal has no
duplicate key, so it is asked about, never sent again, and a person decides (S3, C3, C4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One kind of life; the same for every point of it."""

    name: str
    is_paid: bool = True
    purpose: str = "approved"
    """As the fault suite's originators mean it: `review` names a recipient who is like a listed one."""
    token: str = "tok_approve"  # noqa: S105 - a recipient's token, by which the stand-in knows what to answer
    funding: str = "INTERNAL"
    fault: Mapping[str, Any] | None = None
    """What the stand-in does to each payout of this life, once."""
    executor: str | None = None
    """Who hands the money back: PROCESSOR or ORIGINATOR; None where nobody may."""

    @property
    def status(self) -> str:
        """What the result says."""
        return "PAID" if self.is_paid else "DECLINED"

    def compensation_after(self, target: str | None) -> str:
        """The row's second field at the end, if its worker was killed there."""
        if self.executor is None:
            return "NONE"
        return "MANUAL" if target in UNSURE_REVERSAL else "COMPENSATED"

    def planned(self, number: int, payout_id: str) -> PlannedPayout:
        """What the originator asks for; recipient and card pull are this payout's own."""
        return PlannedPayout(
            number=number,
            payout_id=payout_id,
            purpose=self.purpose,
            funding=self.funding,
            corridor="US-US-USD",
            amount_minor=1_000 + number,
            currency="USD",
            recipient=f"token:{self.token}_{number:07d}",
            extra="none",
        )


LIVES: Final = {
    life.name: life
    for life in (
        Life(name="first_try"),
        Life(name="retry", fault={"operation": "push", "fault": "429", "retry_after": 1, "times": 1}),
        Life(name="resend", fault={"operation": "push", "fault": "503", "times": 1}),
        Life(name="unknown", fault={"operation": "push", "fault": "effect_then_silence", "times": 1}),
        Life(name="review", purpose="review"),
        Life(
            name="compensation",
            is_paid=False,
            token="tok_decline_51",  # noqa: S106
            funding="AFT_YOUNG",
            executor="PROCESSOR",
        ),
        Life(name="confirmation", is_paid=False, token="tok_decline_51", executor="ORIGINATOR"),  # noqa: S106
    )
}
"""first_try: paid at once · retry: refused (429), scheduled, paid · resend: an ambiguous 503, not known to the query,
the same sent again after the horizon · unknown: paid in silence, the query tells · review: a watch-list hit that a
reviewer approves · compensation: declined, and we reverse the card pull · confirmation: declined, and the originator
releases and confirms."""
