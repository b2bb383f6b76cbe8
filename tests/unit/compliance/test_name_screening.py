"""Scores are integers, deterministic, and do what a reviewer expects of them (P7; anchors: ratio on sorted tokens)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.compliance.names import is_latin, normalise_name
from processors.compliance.screening import ScreenedParty, score_basis_points, screen
from processors.compliance.watch_list import WatchList, parse_watch_list
from processors.personal_data import Party, PersonalData

HEADER = "entry_id,name,aliases,country,programme\n"
NAMES = st.text(alphabet="abcdefghijklmnop ABC'-,.éüßøłñ", max_size=40)
WORDS = st.lists(st.text(alphabet="abcdeg", min_size=1, max_size=8), min_size=2, max_size=4)


def _list(*rows: str) -> WatchList:
    return parse_watch_list((HEADER + "".join(f"{row},ZZ,X\n" for row in rows)).encode(), "list.csv")


def _personal(sender: str, recipient: str, **recipient_fields: Any) -> PersonalData:
    return PersonalData(sender=Party(name=sender), recipient=Party(name=recipient, **recipient_fields))


@pytest.mark.parametrize(
    ("spelling", "normal"),
    [
        ("GARCÍA, José", "garcia jose"),
        ("Jose  Garcia", "garcia jose"),
        ("Mr. José García", "garcia jose"),
        ("Mr X", "mr x"),
        ("O’Brien-Smith, Pat", "obrien pat smith"),
        ("Jørund Łukasz Straße Đorđe", "dorde jorund lukasz strasse"),
        ("Zo\u200be\u0308 A\u0301", "a zoe"),
        ("ＦＵＬＬ Ｗｉｄｔｈ", "full width"),
        ("...", ""),
        ("", ""),
    ],
)
def test_spellings_of_one_name_have_one_normal_form(spelling: str, normal: str) -> None:
    """Case, accents, punctuation, order, invisible characters and forms of address do not hide a person."""
    assert normalise_name(spelling) == normal


@given(NAMES)
def test_normal_form_is_stable(name: str) -> None:
    """Normalising twice changes nothing."""
    assert normalise_name(normalise_name(name)) == normalise_name(name)


@pytest.mark.parametrize(
    ("text", "latin"),
    [("garcia", True), ("łukasz", True), ("", True), ("иван", False), ("garc\u0456a", False), ("山田", False)],
)
def test_other_scripts_are_told_apart(text: str, latin: bool) -> None:
    """A Cyrillic letter inside a Latin name is seen, too."""
    assert is_latin(text) is latin


@given(NAMES, NAMES)
def test_score_is_bounded_symmetric_and_full_only_for_equals(one: str, other: str) -> None:
    """0..10000; the order of the arguments does not matter; 10000 means the same normal form."""
    score = score_basis_points(one, other)
    assert isinstance(score, int)
    assert 0 <= score <= 10_000
    assert score == score_basis_points(other, one)
    same = normalise_name(one) == normalise_name(other) != ""
    assert (score == 10_000) is same


@given(WORDS, st.randoms(use_true_random=False))
def test_order_and_case_do_not_change_the_score(words: list[str], random: st.DataObject) -> None:
    """SURNAME, Given is the same name as Given Surname."""
    name = " ".join(words)
    shuffled = list(words)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert score_basis_points(name, ", ".join(shuffled).upper()) == 10_000


@given(WORDS, st.data())
def test_one_more_typing_error_never_raises_the_score_to_full(words: list[str], data: st.DataObject) -> None:
    """A foreign letter always costs something, and one letter never costs more than its share."""
    name = "".join(words)
    position = data.draw(st.integers(0, len(name)))
    wrong = name[:position] + "x" + name[position:]
    score = score_basis_points(name, wrong)
    assert score == (2 * len(name) * 10_000) // (2 * len(name) + 1)


@settings(deadline=None)
@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=6, unique=True), WORDS.map(" ".join), WORDS.map(" ".join))
def test_adding_an_entry_never_lowers_a_score(names: list[str], added: str, query: str) -> None:
    """Monotonic in the list: a longer list finds at least as much."""
    rows = [f"A-{number:02d},{name}," for number, name in enumerate(names)]
    before = screen(_personal(query, "zzz zzz"), _list(*rows)).best.score_basis_points
    after = screen(_personal(query, "zzz zzz"), _list(*rows, f"B-00,{added},")).best.score_basis_points
    assert after >= before
    assert after == max(before, score_basis_points(query, added), score_basis_points("zzz zzz", added))


@settings(deadline=None)
@given(
    st.lists(WORDS.map(" ".join), min_size=1, max_size=6, unique=True), WORDS.map(" ".join), st.permutations(range(6))
)
def test_the_order_of_the_file_never_decides(names: list[str], query: str, order: list[int]) -> None:
    """P7: among equally good entries it is always the one with the lowest id."""
    rows = [f"A-{number:02d},{name}," for number, name in enumerate(names)]
    shuffled = [rows[number] for number in order if number < len(rows)]
    personal = _personal(query, query)
    assert screen(personal, _list(*rows)) == screen(personal, _list(*shuffled))
    best = screen(personal, _list(*rows)).best
    scores = {f"A-{number:02d}": score_basis_points(query, name) for number, name in enumerate(names)}
    top = max(scores.values())
    assert best.score_basis_points == top
    assert best.entry_id == (min(entry for entry, score in scores.items() if score == top) if top else None)


def test_aliases_and_structured_names_are_screened() -> None:
    """A benign full name beside a listed first and last name hides nobody."""
    watch_list = _list("A-1,Viktor Drachenfels,Vic the Fox")
    assert screen(_personal("Jane Miller", "VIC THE FOX"), watch_list).best.score_basis_points == 10_000
    hidden = _personal("Jane Miller", "Harmless Company", first_name="Viktor", last_name="Drachenfels")
    assert screen(hidden, watch_list).best.entry_id == "A-1"


def test_both_parties_are_screened_and_the_higher_wins() -> None:
    """Sender and recipient; the recipient is named when both score the same."""
    watch_list = _list("A-1,Viktor Drachenfels,", "A-2,Ottoline Frostmantle,")
    assert screen(_personal("Viktor Drachenfels", "Jane Miller"), watch_list).best.party is ScreenedParty.SENDER
    best = screen(_personal("Viktor Drachenfels", "Ottoline Frostmantle"), watch_list).best
    assert (best.party, best.entry_id) == (ScreenedParty.RECIPIENT, "A-2")


@pytest.mark.parametrize("name", ["Иван Петров", "山田太郎", "...", "x" * 201, "Vіktor Drachenfels"])
def test_names_that_cannot_be_judged_are_reported(name: str) -> None:
    """A score near zero for another script is not a finding of innocence."""
    found = screen(_personal(name, "Jane Miller"), _list("A-1,Viktor Drachenfels,"))
    assert found.not_screenable == (ScreenedParty.SENDER,)
