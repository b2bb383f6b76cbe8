"""The review policy: fixed reason codes, a time for cases, and an amount from which two approve (R1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from processors.compliance.review_policy import LARGEST_BYTES, load_review_policy, parse_review_policy
from processors.validation.policy import PolicyInvalid

GOOD = b"""
version: "1"
slaSeconds: 14400
secondApprovalFromMinor: {USD: 50000, JPY: 0}
reasonCodes: {approve: {FALSE_POSITIVE: "another person"}, reject: {CONFIRMED_MATCH: "the listed person"}}
"""


def test_r1_the_shipped_policy_can_be_used() -> None:
    """S3-16: four hours, and codes for both decisions."""
    policy = load_review_policy()
    assert policy.sla_seconds == 4 * 3600
    assert "FALSE_POSITIVE" in policy.codes(approved=True)
    assert "FALSE_POSITIVE" not in policy.codes(approved=False)
    assert "CONFIRMED_MATCH" in policy.codes(approved=False)


@pytest.mark.parametrize(
    ("amount", "currency", "needed"),
    [(49_999, "USD", 1), (50_000, "USD", 2), (50_001, "USD", 2), (0, "JPY", 2), (10**12, "EUR", 1)],
)
def test_r1_two_approve_from_the_amount_on(amount: int, currency: str, needed: int) -> None:
    """R1: in minor units of the source currency; one that is not listed needs one."""
    assert parse_review_policy(GOOD, "review.yaml").approvals_needed(amount, currency) == needed


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b"14400", b"0", "slaSeconds"),
        (b"14400", b"4h", "slaSeconds"),
        (b"USD", b"usd", "secondApprovalFromMinor"),
        (b"USD", b"XQZ", "XQZ"),
        (b"50000", b"-1", "secondApprovalFromMinor"),
        (b"50000", b"500.00", "secondApprovalFromMinor"),
        (b"FALSE_POSITIVE", b"false_positive", "reasonCodes"),
        (b'{FALSE_POSITIVE: "another person"}', b"{}", "reasonCodes"),
        (b"reasonCodes", b"reasonCode", "reasonCode"),
        (b"version", b"slaSeconds", "twice"),
    ],
)
def test_r1_a_policy_that_is_not_understood_completely_is_refused(old: bytes, new: bytes, what: str) -> None:
    """What nothing would enforce is not accepted; the message names file and place."""
    assert old in GOOD
    with pytest.raises(PolicyInvalid, match=r"review\.yaml") as refused:
        parse_review_policy(GOOD.replace(old, new), "review.yaml")
    assert what in str(refused.value)


def test_r1_a_missing_or_endless_file_is_refused(tmp_path: Path) -> None:
    """A directory of policies without this one would silently need one approval: it does not start."""
    with pytest.raises(PolicyInvalid, match="cannot be read"):
        load_review_policy(tmp_path / "review.yaml")
    with pytest.raises(PolicyInvalid, match="larger"):
        parse_review_policy(b"#" * (LARGEST_BYTES + 1), "review.yaml")
