"""P6: what a database's copy prints is searched whole, however it is cut, and each value under its column's name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.auditor.collect import CopiedTable
from sandbox.auditor.evidence import Leak
from sandbox.auditor.leak import CardNumberSearch

CARD = "4957030420210462"
STRANGER = "5555555555554444"
IDENTIFIER = "371449635398431"
SEARCH = CardNumberSearch([CARD])


def leaks_of(copied: bytes, pieces: int = 1, columns: tuple[str, ...] = ("payout_id", "note")) -> list[Leak]:
    table = CopiedTable("table payouts", SEARCH, columns)
    size = max(1, len(copied) // pieces)
    for start in range(0, len(copied), size):
        table.add(copied[start : start + size])
    return table.finish()


def hexadecimal(data: bytes) -> bytes:
    return b"\\\\x" + data.hex().encode()


@pytest.mark.parametrize(
    "value",
    [
        CARD.encode(),
        f"card\\n{STRANGER}\\tis refused".encode(),
        hexadecimal(CARD.encode("utf-16-be")),
        hexadecimal(b"\x00\xff" + CARD.encode().hex().encode()),
        "".join(f"\\\\x{ord(digit):02x}" for digit in CARD).encode(),
        CARD.encode().hex().encode(),
    ],
)
def test_number_in_a_column_is_found_and_named(value: bytes) -> None:
    copied = b"payout-1\tnothing\n" * 1_000 + b"payout-2\t" + value + b"\n" + b"payout-3\t\\N\n" * 1_000
    assert [leak.where for leak in leaks_of(copied)] == ["row 1001, column note"]


@settings(deadline=None)
@given(pieces=st.integers(1, 400), rows=st.integers(0, 40), block_bytes=st.integers(1, 400))
def test_number_is_found_however_the_copy_is_cut(pieces: int, rows: int, block_bytes: int) -> None:
    copied = b"payout-1\tnothing\n" * rows + f"payout-2\t{CARD}\n".encode() + b"payout-3\tnothing\n" * rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sandbox.auditor.collect.PIECE_BYTES", block_bytes)
        assert [leak.where for leak in leaks_of(copied, pieces)] == [f"row {rows + 1}, column note"]


def test_neighbouring_columns_and_rows_make_no_number() -> None:
    halves = f"{CARD[:8]}\t{CARD[8:]}\n{STRANGER[:8]}\t\n{STRANGER[8:]}\t\n"
    assert leaks_of(halves.encode()) == []


def test_column_s_name_says_what_a_number_is() -> None:
    """A transaction identifier may look like a card number of 15 digits; under another name it is a leak."""
    copied = f"payout-1\t{IDENTIFIER}\n".encode()
    assert leaks_of(copied, columns=("payout_id", "transaction_identifier")) == []
    assert len(leaks_of(copied)) == 1
