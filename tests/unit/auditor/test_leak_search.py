"""Leaks (P6): the run's own numbers in every encoding and artefact, unknown ones by their form, and no false alarm."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.auditor.evidence import Leak
from sandbox.auditor.leak import OVERLAP_BYTES, Artefact, CardNumberSearch, ScanFailed, scan_paths, scan_stream
from schemas.card_numbers import passes_luhn

VISA = "4957030420210462"
AMERICAN_EXPRESS = "378282246310005"
LONGEST = "6304000000000000000"
OWN = (VISA, AMERICAN_EXPRESS, LONGEST, "30569309025904", "4222222222222")
# Published test number that no run of these tests uses.
STRANGER = "5555555555554444"


def fours(number: str, separator: str) -> str:
    return separator.join(number[place : place + 4] for place in range(0, len(number), 4))


def base64_of(form: str, place: int, url: bool, number: str) -> bytes:
    """With bytes around it that need every letter of base64."""
    encode = base64.urlsafe_b64encode if url else base64.b64encode
    return encode(b"\xff\xfb\xef"[:place] + fours(number, form).encode() + b"\xff\xfb")


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "fours, spaces": lambda number: fours(number, " ").encode(),
    "fours, hyphens": lambda number: fours(number, "-").encode(),
    "fours, dots": lambda number: fours(number, ".").encode(),
    "fours, no-break spaces": lambda number: fours(number, "\u00a0").encode(),
    "fours in a query string": lambda number: quote(fours(number, " ")).encode(),
    "fours in a form": lambda number: fours(number, "+").encode(),
    "reversed": lambda number: number[::-1].encode(),
    "hexadecimal": lambda number: number.encode().hex().encode(),
    "hexadecimal of fours": lambda number: fours(number, "-").encode().hex().upper().encode(),
    "URL-encoded": lambda number: "".join(f"%{ord(digit):02X}" for digit in number).encode(),
    "UTF-16 LE": lambda number: number.encode("utf-16-le"),
    "UTF-16 BE": lambda number: fours(number, " ").encode("utf-16-be"),
    "JSON escapes": lambda number: "".join(f"\\u{ord(digit):04x}" for digit in number).encode(),
    "XML escapes": lambda number: "".join(f"&#{ord(digit)};" for digit in number).encode(),
    "XML hexadecimal escapes": lambda number: "".join(f"&#x{ord(digit):x};" for digit in number).encode(),
    **{
        f"base64{'url' if url else ''}, {place} bytes in, {form or 'plain'}": partial(base64_of, form, place, url)
        for url in (False, True)
        for place in (0, 1, 2)
        for form in ("", " ", "-")
    },
}


@pytest.fixture(scope="module")
def search() -> CardNumberSearch:
    return CardNumberSearch(OWN)


@pytest.mark.parametrize("number", OWN)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_own_number_is_found_in_every_encoding(search: CardNumberSearch, encoding: str, number: str) -> None:
    data = b'{"note": "' + ENCODINGS[encoding](number) + b'"}'
    hits = list(search.own(data))
    assert [hit.ending for hit in hits] == [number[-4:]]


def test_own_number_is_found_inside_a_longer_run_of_digits(search: CardNumberSearch) -> None:
    """Whatever stands around one of our own numbers, it is one."""
    assert [hit.start for hit in search.own(b"00" + VISA.encode() + b"00")] == [2]


def test_american_express_groups_are_found(search: CardNumberSearch) -> None:
    assert len(list(search.own(b"3782 822463 10005"))) == 1


@settings(deadline=None)
@given(
    number=st.from_regex(r"[0-9]{13,19}", fullmatch=True),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    before=st.binary(max_size=40),
    after=st.binary(max_size=40),
)
def test_any_number_is_found_anywhere(number: str, encoding: str, before: bytes, after: bytes) -> None:
    found = CardNumberSearch([number]).own(before + ENCODINGS[encoding](number) + after)
    assert number[-4:] in {hit.ending for hit in found}


@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_bytes_without_the_number_are_no_hit(data: bytes) -> None:
    assert list(CardNumberSearch(OWN).own(data)) == []


def test_number_to_search_for_that_is_none_is_refused_without_its_text() -> None:
    with pytest.raises(ValueError, match="not 12 to 19 digits") as refused:
        CardNumberSearch(["4957-0304"])
    assert "4957" not in str(refused.value)


# Artefacts.


def write_file(folder: Path, data: bytes) -> None:
    (folder / "worker.log").write_bytes(data)


def write_binary_file(folder: Path, data: bytes) -> None:
    (folder / "ledger.sqlite3").write_bytes(b"\x00" * 100 + data + b"\x00")


def write_deep_file(folder: Path, data: bytes) -> None:
    (folder / "state" / "deep").mkdir(parents=True)
    (folder / "state" / "deep" / "x").write_bytes(data)


def write_compressed_file(folder: Path, data: bytes) -> None:
    (folder / "worker.log.1.gz").write_bytes(gzip.compress(data))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("write", [write_file, write_binary_file, write_deep_file, write_compressed_file])
def test_own_number_is_found_in_every_kind_of_file(
    search: CardNumberSearch, tmp_path: Path, write: Callable[[Path, bytes], None], encoding: str
) -> None:
    (tmp_path / "innocent.txt").write_text("nothing here")
    write(tmp_path, b"before " + ENCODINGS[encoding](VISA) + b" after")
    leaks = scan_paths(search, [tmp_path])
    assert len({found.artefact for found in leaks}) == 1
    assert {found.ending for found in leaks} >= {VISA[-4:]}


def test_unknown_number_is_found_in_text_and_not_in_binary(search: CardNumberSearch, tmp_path: Path) -> None:
    write_file(tmp_path, f"paid to {STRANGER}".encode())
    write_binary_file(tmp_path, STRANGER.encode())
    assert [Path(found.artefact).name for found in scan_paths(search, [tmp_path])] == ["worker.log"]


def test_unknown_number_is_found_in_a_compressed_log(search: CardNumberSearch, tmp_path: Path) -> None:
    write_compressed_file(tmp_path, f"paid to {STRANGER}".encode())
    assert len(scan_paths(search, [tmp_path])) == 1


def test_number_in_a_file_name_is_found(search: CardNumberSearch, tmp_path: Path) -> None:
    (tmp_path / f"card-{VISA}.json").touch()
    assert {found.where for found in scan_paths(search, [tmp_path])} == {"its name"}


def test_leak_never_shows_more_than_four_digits(search: CardNumberSearch, tmp_path: Path) -> None:
    """P6: the report of a leak is no leak."""
    write_file(tmp_path, f"{VISA} and {STRANGER}".encode())
    leaks = scan_paths(search, [tmp_path])
    assert len(leaks) == 2
    assert not re.search("[0-9]{5}", " ".join(f"{found.where} {found.encoding} {found.ending}" for found in leaks))


def test_input_file_is_excepted_and_nothing_beside_it(search: CardNumberSearch, tmp_path: Path) -> None:
    write_file(tmp_path, VISA.encode())
    (tmp_path / "input.jsonl").write_text(VISA)
    leaks = scan_paths(search, [tmp_path], excepted=[tmp_path / "." / "input.jsonl"])
    assert [Path(found.artefact).name for found in leaks] == ["worker.log"]


def test_path_that_does_not_exist_is_no_clean_artefact(search: CardNumberSearch, tmp_path: Path) -> None:
    with pytest.raises(ScanFailed, match="does not exist"):
        scan_paths(search, [tmp_path / "never-written"])


def test_file_that_only_begins_as_gzip_is_no_clean_artefact(search: CardNumberSearch, tmp_path: Path) -> None:
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"x" * 100)[:20])
    with pytest.raises(ScanFailed, match="begins as a gzip file"):
        scan_paths(search, [tmp_path])


def test_link_out_of_the_directory_is_not_followed(search: CardNumberSearch, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text(VISA)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "outside")
    assert scan_paths(search, [inside]) == []


@settings(deadline=None)
@given(
    place=st.integers(0, 3 * 4_096),
    encoding=st.sampled_from(sorted(ENCODINGS)),
)
def test_number_across_the_border_of_two_pieces_is_found(place: int, encoding: str) -> None:
    data = b"." * place + b" " + ENCODINGS[encoding](LONGEST) + b" " + b"." * 5_000
    assert {found.ending for found in leaks_in_stream(data, CardNumberSearch(OWN))} >= {LONGEST[-4:]}


@settings(deadline=None)
@given(place=st.integers(0, 3 * 4_096), around=st.sampled_from([".", "é", "字"]))
def test_unknown_number_across_the_border_of_two_pieces_is_found(place: int, around: str) -> None:
    text = around * place + f" {fours(STRANGER, ' ')} " + around * 5_000
    assert leaks_in_stream(text.encode(), CardNumberSearch([]))


@settings(deadline=None)
@given(place=st.integers(0, 3 * 4_096))
def test_border_of_two_pieces_makes_no_number_stand_alone(place: int) -> None:
    """A piece that begins or ends inside a longer run of digits must not take a part of it for a number."""
    data = b"." * place + b"a" + STRANGER.encode() + b"a" + STRANGER.encode() + b"a" + b"." * 5_000
    assert leaks_in_stream(data, CardNumberSearch([])) == []


def leaks_in_stream(data: bytes, search: CardNumberSearch) -> list[Leak]:
    class Dribble(io.BytesIO):
        """Reads that are shorter than what was asked for, as from a pipe."""

        def read(self, size: int | None = -1, /) -> bytes:
            del size
            return super().read(4_096)

    assert OVERLAP_BYTES < 4_096
    artefact = Artefact("stream", search)
    scan_stream(artefact, search, Dribble(data), is_text=True)
    return artefact.finish()


def test_records_are_searched_in_bulk_and_named_one_by_one(search: CardNumberSearch) -> None:
    artefact = Artefact("topic payout_results", search)
    for number in range(1_000):
        artefact.add(f"offset {number}", b"nothing" * 500, is_text=False)
    artefact.add("offset 1000", ENCODINGS["hexadecimal"](VISA), is_text=False)
    artefact.add("offset 1001, header ce_source", f"card {fours(STRANGER, '-')}".encode(), is_text=True)
    assert sorted(found.where for found in artefact.finish()) == ["offset 1000", "offset 1001, header ce_source"]


def test_two_records_never_make_one_number(search: CardNumberSearch) -> None:
    artefact = Artefact("topic payout_results", search)
    artefact.add("offset 1", VISA[:8].encode(), is_text=True)
    artefact.add("offset 2", VISA[8:].encode(), is_text=True)
    assert artefact.finish() == []


# Numbers that look like a card's, and what only resembles them.


@pytest.mark.parametrize(
    "text",
    [
        STRANGER,
        f"card={STRANGER}.",
        fours(STRANGER, " "),
        fours(STRANGER, "-"),
        "3714 496353 98431",
        "371449635398431",
        "pan_5555555555554444",
        json.dumps({"note": f"{STRANGER} is mine"}),
    ],
)
def test_unknown_card_number_is_suspicious(text: str) -> None:
    """Design 10: Luhn-valid, known issuer prefix, issuer-valid length, standing alone."""
    assert len(list(CardNumberSearch([]).unknown(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "371449635398430",  # wrong check digit
        "transaction 238122864943001",  # a transaction identifier of the stand-in
        '{"transactionIdentifier": 371449635398431}',
        '{"transaction_identifier": "371449635398431"}',
        '"{\\"transactionIdentifier\\":\\"371449635398431\\"}"',
        "transaction_identifier=371449635398431",
        "stan=451018 rrn=430617451018",
        "451018 430617451018",  # STAN and RRN in two columns: 18 digits, but not in the groups of a card
        "latency_seconds_sum 0.4539578763621486",
        "process_start_time_seconds 1.763810000453957e+09",
        "2025-11-22 17:14:05.123456",
        "20251122171405",
        "1763810000123",
        "1763810000123456789",
        "payout_requests-11-4539578763",
        "00-0af7651916cd43dd8448eb211c80319c-4539578763621486-01",  # a span id without a letter
        "1491819372_186_4539578763621486_VDP_ARM",
        "45395787-6362-1486-8448-eb211c80319c",
        "sha256=" + "4" * 64,
    ],
)
def test_what_resembles_a_card_number_is_no_alarm(text: str) -> None:
    assert list(CardNumberSearch([]).unknown(text)) == []


def test_known_transaction_identifier_is_no_alarm_under_any_name() -> None:
    """Visa's identifiers have 15 digits, and may begin with 34 or 37 and pass the check digit."""
    identifier = "371449635398431"
    known = CardNumberSearch([], transaction_identifiers=[identifier])
    assert passes_luhn(identifier)
    assert list(known.unknown(f"compensation_reference={identifier}")) == []
    assert len(list(known.unknown(f"compensation_reference={AMERICAN_EXPRESS}"))) == 1


def test_own_number_is_found_even_in_a_transaction_field() -> None:
    """The exception is for numbers that nobody knows; one of ours is a leak wherever it stands."""
    search = CardNumberSearch([AMERICAN_EXPRESS], transaction_identifiers=[AMERICAN_EXPRESS])
    assert len(list(search.own(b'{"transactionIdentifier": 378282246310005}'))) == 1


@settings(deadline=None)
@given(
    at=st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2040, 1, 1)),  # noqa: DTZ001
    identifier=st.uuids(),
    digest=st.binary(min_size=32, max_size=32),
    offset=st.integers(0, 10**9),
    seconds=st.floats(0, 1e6),
    trace=st.integers(1, 2**128 - 1),
    span=st.integers(1, 2**64 - 1),
)
def test_a_log_line_is_no_alarm(
    at: datetime, identifier: uuid.UUID, digest: bytes, offset: int, seconds: float, trace: int, span: int
) -> None:
    line = json.dumps(
        {
            "at": at.replace(tzinfo=UTC).isoformat(),
            "at_ms": int(at.replace(tzinfo=UTC).timestamp() * 1_000),
            "id": str(identifier),
            "sha256": digest.hex(),
            "source": f"payout_requests-11-{offset}",
            "seconds": seconds,
            "traceparent": f"00-{trace:032x}-{span:016x}-01",
        }
    )
    assert list(CardNumberSearch([]).unknown(line)) == []
