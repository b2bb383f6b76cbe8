"""The chain of the sealed history: whatever is changed, missing or in another place shows (L10)."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.seal_chain import (
    ADOPTED,
    EMPTY,
    FIRST_PREVIOUS_HASH,
    Flaw,
    Head,
    first_flaw,
    hash_of,
    identity_position,
    sealed,
)
from tests.unit.ledger.sealed_lines import AT, ORIGIN, chain_of, line


def test_l10_a_record_says_what_the_line_says_and_where_it_was_sealed() -> None:
    """L10, L11: a reader needs nothing else to compute the hash again, nor to know the numbers that are out."""
    (record,) = sealed(EMPTY, [line(5, detail={"reason": "INC-1", "by": "ann"})], ORIGIN)
    assert (record["sequence"], record["previous_hash"]) == (1, FIRST_PREVIOUS_HASH)
    assert (record["subject"], record["payout_id"], record["reason"]) == ("payout", "payout-00000005", "INC-1")
    assert (record["system_identifier"], record["timeline"]) == (ORIGIN.system_identifier, 1)
    assert json.loads(record["detail"])["evidence"] == {"reason": "INC-1", "by": "ann"}
    assert identity_position(record) == 17
    assert record["hash"] == hash_of(FIRST_PREVIOUS_HASH, record)


def test_l10_the_hash_of_a_line_is_fixed_for_ever() -> None:
    """L10: records of years ago are checked by the program of today."""
    (record,) = sealed(EMPTY, [line(1)], ORIGIN)
    assert record["hash"] == "a8e3deb38496917a5b656420451e309bd15805bf035885b17cc5491a3efd3f52"


@settings(deadline=None)
@given(length=st.integers(1, 8), data=st.data())
def test_l10_property_a_chain_holds_until_something_in_it_is_changed(length: int, data: st.DataObject) -> None:
    """L10: any field of any record, its place, its absence."""
    records = chain_of(length)
    assert first_flaw(records) is None
    index = data.draw(st.integers(0, length - 1))
    field = data.draw(st.sampled_from(sorted(records[index])))
    other = {str: "x", int: -5, datetime: AT - timedelta(days=1), type(None): "x"}[type(records[index][field])]
    changed = [*records[:index], records[index] | {field: other}, *records[index + 1 :]]
    flaw = first_flaw(changed)
    assert isinstance(flaw, Flaw)
    if index < length - 1:
        assert first_flaw([*records[:index], *records[index + 1 :]]) is not None, "a line is missing"
        swapped = [*records[:index], records[index + 1], records[index], *records[index + 2 :]]
        assert first_flaw(swapped) is not None, "two lines changed places"


def test_l10_a_record_that_was_published_twice_is_no_flaw() -> None:
    """K2, L10: a lost mark is made good by sending again; also a whole batch of them."""
    first, second, third = chain_of(3)
    assert first_flaw([first, first, second, second, third, third]) is None


def test_l11_only_an_adoption_may_leave_places_out() -> None:
    """L11: it stands behind both chains that it joins, and continues what was published."""
    records = chain_of(2)
    head = Head(9, records[-1]["hash"])
    adoption = sealed(head, [line(3, transition=ADOPTED, payout_id=None, version=None)], ORIGIN)
    assert first_flaw([*records, *adoption]) is None
    assert first_flaw([*records, *sealed(head, [line(3)], ORIGIN)]) == Flaw(10, "follows record 2")


@pytest.mark.parametrize("detail", ["{}", "no json", "[]"])
def test_l11_a_record_that_says_nothing_of_the_numbers_counts_as_none(detail: str) -> None:
    """L11."""
    assert identity_position({"detail": detail}) == 0
