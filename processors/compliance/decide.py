"""Whether a payout's parties are clear, need a person's eye, or are refused.

Every decision carries what is needed to make it again (promise P7): policy version, list version, score, matched
entry and party. Doubt about a payout goes to a reviewer; doubt about ourselves (no list, no keys) stops the stage as
`ComplianceUnavailable`. Nobody is denied because of an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from processors.compliance.screening import FULL_SCORE_BASIS_POINTS, Screening, screen
from processors.compliance.watch_list import WatchList
from processors.payout.events import ScreeningVerdict
from processors.personal_data import PersonalData
from processors.validation.policy import ComplianceScope, CorridorPolicy, CorridorRules
from processors.validation.request import Corridor


class ComplianceUnavailable(Exception):
    """Screening cannot be done here and now, for no payout: pause the stage, decide nothing (rule K5)."""


class ComplianceReason(StrEnum):
    """Why compliance decided as it did; part of the public contract, added to, never renamed."""

    SCREENING_CLEAR = "SCREENING_CLEAR"
    SCREENING_NOT_REQUIRED = "SCREENING_NOT_REQUIRED"
    WATCH_LIST_POSSIBLE_MATCH = "WATCH_LIST_POSSIBLE_MATCH"
    NAME_NOT_SCREENABLE = "NAME_NOT_SCREENABLE"
    CORRIDOR_WITHDRAWN = "CORRIDOR_WITHDRAWN"
    WATCH_LIST_MATCH = "WATCH_LIST_MATCH"


REASONS: Final[Mapping[ComplianceReason, str]] = {
    ComplianceReason.SCREENING_CLEAR: "no party resembles an entry of the watch list",
    ComplianceReason.SCREENING_NOT_REQUIRED: "the corridor's policy screens cross-border payouts only",
    ComplianceReason.WATCH_LIST_POSSIBLE_MATCH: "a party resembles an entry of the watch list; a reviewer decides",
    ComplianceReason.NAME_NOT_SCREENABLE: "a party's name is not in Latin letters, so the list says nothing about it; "
    "a reviewer decides",
    ComplianceReason.CORRIDOR_WITHDRAWN: "the policy in force no longer serves the corridor; a reviewer decides",
    ComplianceReason.WATCH_LIST_MATCH: "a party matches an entry of the watch list",
}
"""A sentence for each code; it names no party and quotes no list entry."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores in basis points from which a payout needs review, and from which it is denied."""

    review_basis_points: int = 7_000
    deny_basis_points: int = 8_500

    def __post_init__(self) -> None:
        if not 0 < self.review_basis_points <= self.deny_basis_points <= FULL_SCORE_BASIS_POINTS:
            raise ValueError(
                f"thresholds must satisfy 0 < review ({self.review_basis_points}) <= deny ({self.deny_basis_points}) "
                f"<= {FULL_SCORE_BASIS_POINTS} basis points"
            )


@dataclass(frozen=True, slots=True)
class _Decision:
    verdict: ClassVar[ScreeningVerdict]

    reason_code: ComplianceReason
    policy_version: str
    list_version: str
    score_basis_points: int
    matched_entry_id: str | None
    """The best match, also below the thresholds; None when the parties were not compared or share nothing with it."""
    matched_party: str | None
    """"sender" or "recipient"."""

    @property
    def reason(self) -> str:
        """A sentence for the event."""
        return REASONS[self.reason_code]


@dataclass(frozen=True, slots=True)
class Cleared(_Decision):
    """Below the review threshold, or not in the corridor's scope."""

    verdict: ClassVar[ScreeningVerdict] = ScreeningVerdict.CLEARED


@dataclass(frozen=True, slots=True)
class NeedsReview(_Decision):
    """A person decides."""

    verdict: ClassVar[ScreeningVerdict] = ScreeningVerdict.NEEDS_REVIEW


@dataclass(frozen=True, slots=True)
class Denied(_Decision):
    """At or above the deny threshold."""

    verdict: ClassVar[ScreeningVerdict] = ScreeningVerdict.DENIED


def comply(
    personal: PersonalData | None,
    corridor: Corridor,
    policy: CorridorPolicy,
    watch_list: WatchList,
    thresholds: Thresholds,
) -> Cleared | NeedsReview | Denied:
    """Screen sender and recipient; the higher score decides. Pure and deterministic.

    `personal` None means that personal data which validation had opened does not open here: this worker lacks a key,
    so it raises ComplianceUnavailable and decides nothing.
    """
    if personal is None:
        raise ComplianceUnavailable(
            "the personal data of a validated payout does not open on this worker; configure the key it names"
        )
    rules = policy.rules_for(corridor)
    if rules is not None and not _is_in_scope(corridor, rules):
        return Cleared(ComplianceReason.SCREENING_NOT_REQUIRED, policy.stamp, watch_list.version, 0, None, None)
    screening = screen(personal, watch_list)
    reason_code = _reason(screening, thresholds, is_served=rules is not None)
    best = screening.best
    return _DECISIONS[reason_code](
        reason_code,
        policy.stamp,
        watch_list.version,
        best.score_basis_points,
        best.entry_id,
        str(best.party) if best.entry_id is not None else None,
    )


def _is_in_scope(corridor: Corridor, rules: CorridorRules) -> bool:
    return rules.compliance_scope is not ComplianceScope.CROSS_BORDER_ONLY or corridor.is_cross_border


def _reason(screening: Screening, thresholds: Thresholds, *, is_served: bool) -> ComplianceReason:
    score = screening.best.score_basis_points
    if score >= thresholds.deny_basis_points:
        return ComplianceReason.WATCH_LIST_MATCH
    if score >= thresholds.review_basis_points:
        return ComplianceReason.WATCH_LIST_POSSIBLE_MATCH
    if not is_served:
        return ComplianceReason.CORRIDOR_WITHDRAWN
    if screening.not_screenable:
        return ComplianceReason.NAME_NOT_SCREENABLE
    return ComplianceReason.SCREENING_CLEAR


_DECISIONS: Final[Mapping[ComplianceReason, type[Cleared] | type[NeedsReview] | type[Denied]]] = {
    ComplianceReason.SCREENING_CLEAR: Cleared,
    ComplianceReason.WATCH_LIST_POSSIBLE_MATCH: NeedsReview,
    ComplianceReason.NAME_NOT_SCREENABLE: NeedsReview,
    ComplianceReason.CORRIDOR_WITHDRAWN: NeedsReview,
    ComplianceReason.WATCH_LIST_MATCH: Denied,
}
