"""What is wrong with a chain, named with its place, once each (L10)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.audit_check import Adopted, Adoptions, Chain, Found, compared
from ledger.seal_chain import ADOPTED, Head, record_of, sealed
from tests.unit.ledger.sealed_lines import AT, ORIGIN, chain_of, line


def found(records: Iterable[Mapping[str, Any]], last: int | None = None) -> list[tuple[int | None, str]]:
    """What is wrong, and at which record."""
    chain = Chain("topic")
    flaws: list[Found] = []
    for record in records:
        flaws += chain.take(record)
    flaws += chain.over(last)
    return [(flaw.sequence, flaw.what.split(":")[0]) for flaw in flaws]


def test_l10_a_whole_chain_and_what_was_sent_again_are_well() -> None:
    """L10, K2: repeats in any number, also from the beginning."""
    records = chain_of(9)
    assert found(records) == []
    assert found([*records[:5], *records[2:5], *records[3:], *records], last=9) == []


def test_l10_a_changed_record_is_named_and_only_that_one() -> None:
    """L10: whatever was changed of it."""
    records = chain_of(5)
    for changes in ({"actor": "mallory"}, {"detail": "{}"}, {"at": AT}, {"version": None}, {"reason": "x"}):
        changed = [*records[:2], records[2] | changes, *records[3:]]
        assert found(changed) == [(3, "its content is not what was sealed")]


def test_l10_a_record_whose_hash_was_made_to_fit_shows_at_the_next_one() -> None:
    """L10: who changes a record and its hash has to change all that follow, and then the topic still says otherwise."""
    records = chain_of(5)
    forged = record_of(Head(3, str(records[1]["hash"])), line(3, actor="mallory"), ORIGIN)
    assert [sequence for sequence, _ in found([*records[:2], forged, *records[3:]])] == [4]
    rest = sealed(Head(3, str(forged["hash"])), [line(4), line(5)], ORIGIN)
    rewritten = [*records[:2], forged, *rest]
    assert found(rewritten) == []
    table = {int(record["sequence"]): str(record["hash"]) for record in rewritten}
    differs = list(compared([(record, "") for record in records], table, Adoptions()))
    assert [flaw.sequence for flaw in differs] == [3, 4, 5]


def test_l10_a_removed_record_is_named_in_the_middle_and_at_both_ends() -> None:
    """L10: also when nothing behind it says so."""
    records = chain_of(6)
    assert found([*records[:2], *records[4:]]) == [(3, "to 4 are missing")]
    assert found(records[1:]) == [(1, "is missing")]
    assert found(records[:5], last=6) == [(6, "is missing")]


def test_l10_a_record_in_another_order_is_named() -> None:
    """L10."""
    records = chain_of(5)
    swapped = [records[0], records[2], records[1], *records[3:]]
    assert found(swapped) == [(2, "stands behind later records")]


def test_l10_an_inserted_record_is_named() -> None:
    """L10: at a place that is taken, and one that continues nothing."""
    records = chain_of(4)
    forged = record_of(Head(4, str(records[2]["hash"])), line(77), ORIGIN)
    assert found([*records, forged]) == [(4, "another record stands at this place already")]
    stray = record_of(Head(5, "f" * 64), line(77), ORIGIN)
    assert found([*records, stray]) == [(5, "does not continue the record before it")]


@given(length=st.integers(2, 9), data=st.data())
def test_l10_property_whatever_is_done_to_a_topic_shows(length: int, data: st.DataObject) -> None:
    """L10: change, remove, swap or insert anywhere; the table or the chain tells."""
    records: list[dict[str, Any]] = chain_of(length)
    table = {int(record["sequence"]): str(record["hash"]) for record in records}
    place = data.draw(st.integers(0, length - 1))
    tampered = list(records)
    match data.draw(st.sampled_from(["change", "remove", "swap", "insert"])):
        case "change":
            tampered[place] = records[place] | {"actor": "mallory"}
        case "remove":
            del tampered[place]
        case "swap":
            other = data.draw(st.integers(0, length - 1).filter(lambda index: index != place))
            tampered[place], tampered[other] = tampered[other], tampered[place]
        case _:
            before = Head(place + 1, str(records[place]["previous_hash"]))
            tampered.insert(place, record_of(before, line(99, actor="mallory"), ORIGIN))
    differs = list(compared([(record, "") for record in tampered], table, Adoptions()))
    assert found(tampered, last=length) or differs


def restored() -> tuple[list[dict[str, Any]], list[dict[str, Any]], Adoptions]:
    """A table that was put back to its third record and adopted after the sixth was published, and its topic."""
    records = chain_of(6)
    detail = {"reason": "INC-1", "old_sequence": 3, "old_hash": records[2]["hash"]}
    changes = {"transition": ADOPTED, "payout_id": None, "version": None, "detail": detail, "from_state": "BEHIND"}
    joint = record_of(Head(7, str(records[5]["hash"])), line(4, **changes), ORIGIN)
    after = sealed(Head(7, str(joint["hash"])), [line(8), line(9)], ORIGIN)
    return [*records[:3], joint, *after], [*records, joint, *after], Adoptions([Adopted(7, "BEHIND", 3)])


def _differences(
    records: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]], adoptions: Adoptions
) -> list[int | None]:
    hashes = {int(record["sequence"]): str(record["hash"]) for record in table}
    return [flaw.sequence for flaw in compared([(record, "") for record in records], hashes, adoptions)]


def test_l11_an_adopted_copy_is_no_tampering() -> None:
    """L11: the table goes on behind its own old end, the topic keeps what the copy had lost."""
    table, topic, adoptions = restored()
    assert found(table) == []
    assert found(topic, last=9) == []
    assert _differences(topic, table, adoptions) == []


@pytest.mark.parametrize("cut", [1, 2])
def test_l11_an_adoption_excuses_nothing_before_it(cut: int) -> None:
    """L10, L11: the adoption says where the copy had ended; a table that ends elsewhere was cut."""
    table, topic, adoptions = restored()
    assert found([*table[: 3 - cut], *table[3:]]) == [(7, "does not continue the record before it")]
    changed = [topic[0] | {"hash": "0" * 64}, *topic[1:]]
    assert _differences(changed, table, adoptions) == [1]


def test_l10_a_seal_without_its_line_is_named() -> None:
    """L10: a removed line leaves its seal; the chain goes on behind it."""
    records = chain_of(3)
    chain = Chain("ledger")
    flaws = [*chain.take(records[0]), *chain.gone(2, str(records[1]["hash"]), "history 2"), *chain.take(records[2])]
    assert [(flaw.sequence, flaw.place) for flaw in flaws] == [(2, "history 2")]


def test_p6_of_a_masked_record_only_the_links_are_judged() -> None:
    """P6, L10: an export without a card number is still evidence of what stood before and behind it."""
    records = chain_of(3)
    chain = Chain("export")
    masked = records[1] | {"detail": '{"evidence":"[card number]"}'}
    assert not [*chain.take(records[0]), *chain.take(masked, known_content=False), *chain.take(records[2])]
