"""Whether a database is the one that published the audit, as a pure decision (L11)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.connections import NEVER
from ledger.guard import Published, Standing, Verdict, judge
from ledger.seal_chain import EMPTY, Head

HEAD = Head(100, "a" * 64)
STANDING = Standing(NEVER, "system-1", 3, HEAD, 100, 0, 500)
PUBLISHED = Published(HEAD, "system-1", 3, 500)
FRESH = replace(STANDING, head=EMPTY, published_sequence=0)


def verdict(
    standing: Standing = STANDING,
    published: Published | None = PUBLISHED,
    *,
    knows: bool = True,
    misses: bool = False,
    trusted_adoption: int = 0,
) -> Verdict:
    return judge(standing, published, knows_published=knows, misses_witnesses=misses, trusted_adoption=trusted_adoption)


def behind(sequences: int) -> Standing:
    return replace(STANDING, head=Head(HEAD.sequence - sequences, "b" * 64))


def test_l11_the_same_database_or_one_that_has_sealed_more_is_known() -> None:
    """L11: a lost publish leaves the topic behind, which is no reason to stop."""
    assert verdict() is Verdict.KNOWN
    assert verdict(replace(STANDING, head=Head(130, "c" * 64))) is Verdict.KNOWN


def test_l11_a_new_installation_is_known_and_an_empty_topic_after_publishing_is_not() -> None:
    """L11."""
    assert verdict(FRESH, None) is Verdict.KNOWN
    assert verdict(replace(STANDING, published_sequence=0), None) is Verdict.KNOWN, "sealed, and not published yet"
    assert verdict(STANDING, None) is Verdict.TOPIC_LOST
    assert verdict(FRESH, PUBLISHED, knows=False) is Verdict.BEHIND, "an empty database under an old topic"


@pytest.mark.parametrize("sequences", [1, 50, 100])
def test_l11_a_copy_from_before_is_behind(sequences: int) -> None:
    """L11: also one that was recovered to a point in time, on a higher timeline."""
    assert verdict(behind(sequences), knows=False) is Verdict.BEHIND
    assert verdict(replace(behind(sequences), timeline=4), knows=False) is Verdict.BEHIND


def test_l11_another_record_at_the_same_place_is_different() -> None:
    """L11: two copies of one database have both gone on."""
    assert verdict(knows=False) is Verdict.DIFFERENT
    assert verdict(replace(STANDING, head=Head(130, "c" * 64)), knows=False) is Verdict.DIFFERENT


def test_l11_a_failover_is_known_and_who_was_followed_is_not() -> None:
    """L11, L4: the standby has a higher timeline and the same chain."""
    assert verdict(replace(STANDING, timeline=4)) is Verdict.KNOWN
    assert verdict(replace(STANDING, timeline=2)) is Verdict.OLDER_TIMELINE


def test_l11_another_cluster_with_the_same_rows_is_adopted_first() -> None:
    """L11."""
    other = replace(STANDING, system_identifier="system-2")
    assert verdict(other) is Verdict.OTHER_SYSTEM
    assert verdict(replace(other, head=Head(101, "d" * 64), adopted_sequence=101)) is Verdict.KNOWN


def test_l11_what_a_worker_has_seen_confirmed_and_nobody_had_sealed_is_missed() -> None:
    """L11: the second before the last seal; an adoption since then accounts for it, an older one does not."""
    assert verdict(misses=True) is Verdict.FORGOTTEN
    adopted = replace(STANDING, head=Head(101, "d" * 64), adopted_sequence=101)
    assert verdict(adopted, misses=True) is Verdict.KNOWN
    assert verdict(adopted, misses=True, trusted_adoption=101) is Verdict.FORGOTTEN


def test_l11_an_adoption_that_is_not_published_yet_is_enough() -> None:
    """L11: its author may have died between the commit and the publish."""
    adopted = replace(STANDING, head=Head(101, "d" * 64), adopted_sequence=101)
    assert verdict(adopted) is Verdict.KNOWN
    assert verdict(replace(adopted, published_sequence=100), None) is Verdict.KNOWN
    assert verdict(replace(adopted, published_sequence=101), None) is Verdict.TOPIC_LOST


@settings(deadline=None)
@given(
    sealed=st.integers(0, 50),
    published=st.integers(1, 50),
    knows=st.booleans(),
    misses=st.booleans(),
    timelines=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    systems=st.tuples(st.sampled_from("ab"), st.sampled_from("ab")),
)
def test_l11_property_nothing_is_known_that_lacks_what_was_published(
    sealed: int, published: int, knows: bool, misses: bool, timelines: tuple[int, int], systems: tuple[str, str]
) -> None:
    """L11: without an adoption, KNOWN means the same cluster, no older timeline, and every published record."""
    standing = Standing(NEVER, systems[0], timelines[0], Head(sealed, "e" * 64), sealed, 0, 0)
    last = Published(Head(published, "f" * 64), systems[1], timelines[1], 0)
    if verdict(standing, last, knows=knows, misses=misses) is Verdict.KNOWN:
        assert knows
        assert sealed >= published
        assert not misses
        assert systems[0] == systems[1]
        assert timelines[0] >= timelines[1]
