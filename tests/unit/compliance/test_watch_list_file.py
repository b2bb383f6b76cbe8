"""The list is versioned by its bytes, and a list that cannot be understood is no list (P7, K5)."""

import hashlib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.compliance.watch_list import WatchListInvalid, load_watch_list, parse_watch_list

HEADER = "entry_id,name,aliases,country,programme\n"


def test_the_shipped_list_is_versioned_by_its_hash() -> None:
    """P7: the version on a decision names the very bytes."""
    content = resources.files("policies").joinpath("watch_list.csv").read_bytes()
    watch_list = load_watch_list()
    assert watch_list.sha256 == hashlib.sha256(content).hexdigest()
    assert watch_list.version == f"sha256.{watch_list.sha256[:16]}"
    assert len(watch_list.entries) >= 10
    assert all(entry.programme.startswith("SYNTHETIC-") for entry in watch_list.entries.values())


def test_names_and_aliases_are_in_normal_form_and_order() -> None:
    """The same list gives the same order, so the same match among equals."""
    rows = 'B-2,"Zorn, Ada",Ada Z.;;\u00c1da Zorn,ZZ,X\nB-1,Bo Ek,,ZZ,X\n'
    watch_list = parse_watch_list((HEADER + rows).encode(), "list.csv")
    assert list(zip(watch_list.entry_ids, watch_list.names, strict=True)) == [
        ("B-1", "bo ek"),
        ("B-2", "ada z"),
        ("B-2", "ada zorn"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "line 1: the columns"),
        (HEADER, "is empty"),
        ("id,name\n1,x\n", "line 1: the columns"),
        (HEADER + "A-1,Bo Ek,,ZZ\n", "line 2: a row must have the 5 columns"),
        (HEADER + "A-1,Bo Ek,,ZZ,X,more\n", "line 2: a row must have the 5 columns"),
        (HEADER + "A-1,Bo Ek,,ZZ,X\nA-1,Al Ek,,ZZ,X\n", "line 3: the entry id 'A-1' stands there twice"),
        (HEADER + "A 1,Bo Ek,,ZZ,X\n", "line 2: entry_id"),
        (HEADER + "A-1,...,,ZZ,X\n", "line 2: a name has no letters"),
        (HEADER + f"A-1,{'x' * 201},,ZZ,X\n", "line 2: a name has no letters or more than 200"),
        (HEADER + 'A-1,"Bo,,ZZ,X\n', "not acceptable CSV"),
    ],
)
def test_a_wrong_list_is_refused_with_file_and_line(content: str, expected: str) -> None:
    """Fail closed: screening against an empty or half-read list would clear everybody."""
    with pytest.raises(WatchListInvalid, match=expected) as caught:
        parse_watch_list(content.encode(), "list.csv")
    assert str(caught.value).startswith("list.csv")


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    """Errors say which file."""
    with pytest.raises(WatchListInvalid, match=r"absent\.csv: the watch list cannot be read"):
        load_watch_list(tmp_path / "absent.csv")


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=150) | st.text(max_size=80).map(lambda text: (HEADER + text).encode("utf-8", "replace")))
def test_junk_raises_only_the_declared_error(content: bytes) -> None:
    """P8: a broken file is an error with a name, at start."""
    try:
        watch_list = parse_watch_list(content, "junk.csv")
    except WatchListInvalid:
        return
    assert watch_list.entries
