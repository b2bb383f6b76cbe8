"""Clear, review or deny, each with the evidence to decide it again (P7, S3-14, S3-16, B7, F-16, F-17)."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.compliance.decide import (
    REASONS,
    Cleared,
    ComplianceReason,
    ComplianceUnavailable,
    Denied,
    NeedsReview,
    Thresholds,
    comply,
)
from processors.compliance.screening import score_basis_points
from processors.compliance.watch_list import load_watch_list
from processors.payout.events import ScreeningVerdict
from processors.personal_data import Party, PersonalData
from processors.validation.policy import ComplianceScope, CorridorPolicy, load_policy
from processors.validation.request import Corridor

POLICY = load_policy()
WATCH_LIST = load_watch_list()
US_US = Corridor(source_country="US", target_country="US", source_currency="USD", target_currency="USD")
US_MX = Corridor(source_country="US", target_country="MX", source_currency="USD", target_currency="MXN")
HARMLESS = "Wei Lin Fu"


def _personal(recipient: str, sender: str = HARMLESS) -> PersonalData:
    return PersonalData(sender=Party(name=sender), recipient=Party(name=recipient))


def _comply(
    recipient: str,
    *,
    sender: str = HARMLESS,
    corridor: Corridor = US_US,
    policy: CorridorPolicy = POLICY,
    thresholds: Thresholds | None = None,
) -> Cleared | NeedsReview | Denied:
    return comply(_personal(recipient, sender), corridor, policy, WATCH_LIST, thresholds or Thresholds())


@pytest.mark.parametrize(
    ("name", "decision", "reason_code", "entry_id"),
    [
        ("DRACHENFELS, Viktor", Denied, ComplianceReason.WATCH_LIST_MATCH, "SYN-0001"),
        ("Viktor Drakenfels", Denied, ComplianceReason.WATCH_LIST_MATCH, "SYN-0001"),
        # Exactly 8500: on the threshold.
        ("Bartholomew Grimes", Denied, ComplianceReason.WATCH_LIST_MATCH, "SYN-0008"),
        ("Viktor Drachmann", NeedsReview, ComplianceReason.WATCH_LIST_POSSIBLE_MATCH, "SYN-0001"),
        ("Lucasta Thornton", NeedsReview, ComplianceReason.WATCH_LIST_POSSIBLE_MATCH, "SYN-0011"),
        ("Иван Петров", NeedsReview, ComplianceReason.NAME_NOT_SCREENABLE, None),
    ],
)
def test_a_name_leads_to_its_decision(
    name: str, decision: type[Cleared | NeedsReview | Denied], reason_code: ComplianceReason, entry_id: str | None
) -> None:
    """S3-14, S3-16: from 0.70 a reviewer decides, from 0.85 it is denied."""
    made = _comply(name)
    assert type(made) is decision, made
    assert made.reason_code is reason_code
    assert made.policy_version == POLICY.stamp
    assert made.list_version == WATCH_LIST.version
    if entry_id is not None:
        assert (made.matched_entry_id, made.matched_party) == (entry_id, "recipient")
        entry = WATCH_LIST.entries[entry_id]
        assert made.score_basis_points == max(score_basis_points(name, other) for other in (entry.name, *entry.aliases))


@pytest.mark.parametrize(
    "name", ["Maria Garcia Lopez", "John Smith", "Mohammed Al-Sayed", "Tanaka Yuki", "Anna Müller"]
)
def test_ordinary_names_are_cleared(name: str) -> None:
    """No false positive among everyday names; the best score is in the record all the same."""
    made = _comply(name)
    assert isinstance(made, Cleared)
    assert made.verdict is ScreeningVerdict.CLEARED
    assert 0 <= made.score_basis_points < 7_000


def test_a_listed_sender_is_found_too() -> None:
    """AML control 1: recipient and sender."""
    made = _comply(HARMLESS, sender="Ottoline Frostmantle")
    assert isinstance(made, Denied)
    assert made.matched_party == "sender"


@settings(deadline=None)
@given(
    st.integers(1, 10_000), st.integers(1, 10_000), st.sampled_from(["Viktor Drachmann", "Lucasta Thornton", HARMLESS])
)
def test_thresholds_are_inclusive_and_nothing_is_decided_twice(one: int, other: int, name: str) -> None:
    """S3-14: score >= threshold; every score has one decision; a lower threshold never decides more mildly."""
    thresholds = Thresholds(review_basis_points=min(one, other), deny_basis_points=max(one, other))
    made = _comply(name, thresholds=thresholds)
    score = made.score_basis_points
    expected = Denied if score >= max(one, other) else NeedsReview if score >= min(one, other) else Cleared
    assert type(made) is expected


@pytest.mark.parametrize(("review", "deny"), [(0, 8500), (8501, 8500), (7000, 10_001), (-1, -1)])
def test_thresholds_that_make_no_sense_are_refused_at_start(review: int, deny: int) -> None:
    """Clear errors at start."""
    with pytest.raises(ValueError, match="thresholds must satisfy"):
        Thresholds(review_basis_points=review, deny_basis_points=deny)


def _policy_with(corridor: Corridor, scope: ComplianceScope) -> CorridorPolicy:
    key = (corridor.source_country, corridor.target_country, corridor.source_currency, corridor.target_currency)
    return replace(POLICY, corridors={**POLICY.corridors, key: replace(POLICY.corridors[key], compliance_scope=scope)})


def test_scope_decides_who_is_screened() -> None:
    """B7, B8, F-17: cross-border-only spares domestic payouts, and them only."""
    domestic = _policy_with(US_US, ComplianceScope.CROSS_BORDER_ONLY)
    made = _comply("Viktor Drachenfels", policy=domestic)
    assert isinstance(made, Cleared)
    assert made.reason_code is ComplianceReason.SCREENING_NOT_REQUIRED
    assert (made.score_basis_points, made.matched_entry_id, made.list_version) == (0, None, WATCH_LIST.version)
    abroad = _policy_with(US_MX, ComplianceScope.CROSS_BORDER_ONLY)
    assert isinstance(_comply("Viktor Drachenfels", corridor=US_MX, policy=abroad), Denied)


def test_a_corridor_that_was_withdrawn_meanwhile_goes_to_a_person() -> None:
    """B7: fail closed: validated under an older policy, never cleared under one that does not know the corridor."""
    nothing = replace(POLICY, corridors={})
    made = _comply(HARMLESS, policy=nothing)
    assert isinstance(made, NeedsReview)
    assert made.reason_code is ComplianceReason.CORRIDOR_WITHDRAWN
    assert isinstance(_comply("Viktor Drachenfels", policy=nothing), Denied)


def test_a_missing_key_is_our_fault_and_decides_nothing() -> None:
    """B7, F-16, K5: systemic trouble stops the stage; nobody is denied, or cleared, by an error."""
    with pytest.raises(ComplianceUnavailable, match="configure the key"):
        comply(None, US_US, POLICY, WATCH_LIST, Thresholds())


def test_no_decision_quotes_a_name() -> None:
    """P6: decisions go into events and logs."""
    for name in ("Viktor Drachenfels", "Viktor Drachmann", HARMLESS):
        made = _comply(name)
        for part in (*name.split(), "Drachenfels"):
            assert part not in f"{made!r} {made.reason}"
    assert set(REASONS) == set(ComplianceReason)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=250), st.text(max_size=250))
def test_any_name_gets_a_decision(sender: str, recipient: str) -> None:
    """P8: whatever a name holds, nothing is raised, and an unjudged name is never cleared."""
    made = _comply(recipient, sender=sender)
    if not any(character.isalnum() for character in sender):
        assert not isinstance(made, Cleared)
