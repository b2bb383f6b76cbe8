"""Is this the database that we know? (rule L11) Pure: facts of the database, the last published record, a verdict.

A copy from yesterday keeps its system identifier and its timeline. What it does not have is what was sealed since,
which `payout_audit` has, and the intents that a worker remembers to have begun.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ledger.seal_chain import Head


class Verdict(StrEnum):
    """What was found. Only KNOWN lets calls leave."""

    NOT_LOOKED_AT = "NOT_LOOKED_AT"
    KNOWN = "KNOWN"
    BEHIND = "BEHIND"
    """More was published than this database has sealed: a copy from before, or an empty database."""
    DIFFERENT = "DIFFERENT"
    """Another record was published at a place that this database has sealed, or one that it never wrote."""
    OTHER_SYSTEM = "OTHER_SYSTEM"
    """The last record was sealed by another cluster."""
    OLDER_TIMELINE = "OLDER_TIMELINE"
    """A primary that another one has followed."""
    TOPIC_LOST = "TOPIC_LOST"
    """The database has published, and the topic holds nothing."""
    RESTORED = "RESTORED"
    """A backup was put back here, and nobody has adopted it yet."""
    FORGOTTEN = "FORGOTTEN"
    """A worker began intents that this database does not have: a copy from less than a moment before."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a database says of itself."""

    incarnation: datetime
    """When the server was started: a database that was put back has a new one."""
    system_identifier: str
    timeline: int
    head: Head
    published_sequence: int
    adopted_sequence: int
    """Of the newest adoption; 0 when there is none."""
    identity_position: int
    restored: bool = False
    """A backup was put back since the newest adoption."""


@dataclass(frozen=True, slots=True)
class Published:
    """The last record of `payout_audit`."""

    head: Head
    system_identifier: str
    timeline: int
    identity_position: int


def judge(
    standing: Standing,
    published: Published | None,
    *,
    knows_published: bool,
    misses_witnesses: bool,
    trusted_adoption: int,
) -> Verdict:
    """Whether this database may begin calls.

    `knows_published`: the published record is sealed here under the same hash, or was adopted. `misses_witnesses`: an
    intent that this worker saw confirmed is not here; an adoption newer than `trusted_adoption`, which was the newest
    when the worker trusted the database last, accounts for that.
    """
    refusal = _refusal(standing, published, knows_published=knows_published)
    if refusal is not None:
        return refusal
    forgotten = misses_witnesses and standing.adopted_sequence <= trusted_adoption
    return Verdict.FORGOTTEN if forgotten else Verdict.KNOWN


def _refusal(standing: Standing, published: Published | None, *, knows_published: bool) -> Verdict | None:
    """What the audit says against this database."""
    if published is None:
        has_published = standing.published_sequence > 0
        # An adoption that is not published yet accounts for the empty topic; its own record will be the first there.
        adopted = standing.adopted_sequence > standing.published_sequence
        lost = has_published and not adopted
        return Verdict.TOPIC_LOST if lost else _restored(standing)
    if published.head.sequence > standing.head.sequence:
        return Verdict.BEHIND
    if not knows_published:
        return Verdict.DIFFERENT
    if standing.restored:
        return Verdict.RESTORED
    adopted_since = standing.adopted_sequence > published.head.sequence
    if published.system_identifier != standing.system_identifier and not adopted_since:
        return Verdict.OTHER_SYSTEM
    if published.timeline > standing.timeline and not adopted_since:
        return Verdict.OLDER_TIMELINE
    return None


def _restored(standing: Standing) -> Verdict | None:
    return Verdict.RESTORED if standing.restored else None
