"""S0-41, S1-10, S1-11, S1-19: `payouts pii-scan` finds what is in files and topics, says where, and never what."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Message
from jwcrypto import jwk
from typer.testing import CliRunner, Result

from ops import pii_files
from ops.exit_codes import ExitCode
from ops.main import app
from ops.pii_files import Place, find_in_pieces, scan_stream
from ops.pii_topics import scan_record
from processors.personal_data import seal_for_processor
from processors.pii.hits import ALL_KINDS, Kind
from schemas.codec import BlockingCodec
from tests.unit.pii.pii_samples import identifiers

CARD = "4957030420210462"


def run(*words: str | Path, stdin: bytes | None = None) -> Result:
    """Run `payouts pii-scan WORDS…` in this process."""
    return CliRunner().invoke(app, ["pii-scan", *map(str, words)], input=stdin, env={"PAYOUTS_PROFILE": "test"})


def found(*words: str | Path, stdin: bytes | None = None) -> list[tuple[str, str]]:
    """Kind and place of what it finds; the exit code says the same."""
    result = run(*words, "--output", "json", stdin=stdin)
    rows = [(row["kind"], row["place"]) for row in json.loads(result.stdout)]
    assert result.exit_code == (ExitCode.FOUND if rows else ExitCode.OK), result.stderr
    return rows


def places(text: str) -> list[Place]:
    """What a file with this text holds."""
    return list(scan_stream(io.BytesIO(text.encode()), ALL_KINDS))


def test_a_log_full_of_ids_has_less_than_one_false_hit_in_a_thousand() -> None:
    """S1-10: our logs' own identifiers, as JSON lines."""
    random = Random(7)
    lines = [
        json.dumps({"log.level": "info", "what": name, "value": text}) for name, text in identifiers(random, 40_000)
    ]
    hits = places("\n".join(lines))
    assert len(hits) < len(lines) / 1_000


@pytest.mark.parametrize("size", [1, 7, 1_000, 4_000])
def test_where_a_file_is_cut_hides_nothing_and_doubles_nothing(size: int) -> None:
    """S0-41: pieces of any size give what the whole gives, with the same lines and columns."""
    text = "".join(f"é {'x' * (number % 90)} {CARD}\n" + "y" * (number % 7) for number in range(100))
    pieces = (text[start : start + size] for start in range(0, len(text), size))
    assert list(find_in_pieces(pieces, ALL_KINDS)) == places(text)
    assert [(place.line, place.column) for place in places(text)] == [
        (number + 1, 4 + number % 90 + (number - 1) % 7 * (number > 0)) for number in range(100)
    ]


PACKED: Mapping[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "gzip in gzip": lambda data: gzip.compress(gzip.compress(data)),
    "UTF-16 with its mark": lambda data: data.decode().encode("utf-16"),
    "UTF-16, little-endian": lambda data: data.decode().encode("utf-16-le"),
    "UTF-16, big-endian": lambda data: data.decode().encode("utf-16-be"),
    "UTF-8 with its mark": lambda data: b"\xef\xbb\xbf" + data,
    "Latin-1": lambda data: "é \u00e4\u00f6 ".encode("latin-1") + data,
    "binary": lambda data: bytes(range(256)) * 3 + data + b"\0\0\1\2",
}


@pytest.mark.parametrize("form", PACKED)
def test_a_number_is_found_in_every_kind_of_file(tmp_path: Path, form: str) -> None:
    """S0-41, S1-11: and an e-mail address, a name's neighbour in every log."""
    (tmp_path / "it").write_bytes(PACKED[form](f"paid to {CARD} of user@example.com\n".encode()))
    kinds = [kind for kind, _ in found(tmp_path / "it")]
    assert kinds == ["CARD", "EMAIL"]


def test_places_are_told_and_values_are_not(tmp_path: Path) -> None:
    """S0-41: also where the name of a file or folder is the leak; folders are walked, links in them are not."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.log").write_text(f"nothing\nhere {CARD}\n")
    (folder / f"receipt-{CARD}.txt").write_text("fine")
    (folder / "loop").symlink_to(folder)
    (folder / "away").symlink_to(tmp_path / "missing")
    os.mkfifo(folder / "pipe")
    table = run(folder)
    assert table.exit_code == ExitCode.FOUND
    assert CARD not in table.stdout + table.stderr
    assert found(folder) == [
        ("CARD", f"{folder}/a.log:2:6"), ("CARD", f"{folder}/receipt-[card number].txt: its name"),
    ]  # fmt: skip
    assert "Card number where none may be" in table.stderr


def test_a_clean_folder_is_clean(tmp_path: Path) -> None:
    """S0-41: exit code 0 is for CI."""
    (tmp_path / "a.log").write_text('{"payout_id": "order-2026-000017", "attempt": 1}\n')
    assert found(tmp_path) == []
    assert found("-", stdin=b"nothing\n") == []


def test_standard_input_is_searched() -> None:
    """S0-41: what another program prints, compressed or not."""
    assert found("-", stdin=f"a\n  {CARD}\n".encode()) == [("CARD", "(stdin):2:3")]
    assert found("-", stdin=gzip.compress(CARD.encode())) == [("CARD", "(stdin):1:1")]


def test_only_the_kinds_asked_for_count(tmp_path: Path) -> None:
    """S1-10: each kind has its name."""
    (tmp_path / "a").write_text(f"{CARD} user@example.com 078-05-1120 cvv 123")
    assert [kind for kind, _ in found(tmp_path / "a")] == ["CARD", "EMAIL", "SSN", "CVV"]
    assert [kind for kind, _ in found(tmp_path / "a", "--kind", "email", "--kind", "CVV")] == ["EMAIL", "CVV"]
    refused = run(tmp_path / "a", "--kind", "name")
    assert refused.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    "data",
    [b"PK\x03\x04 zip", b"\x28\xb5\x2f\xfd zstd", gzip.compress(b"x" * 99, mtime=0)[:-9], b"\x1f\x8bno", b"BZhno"],
)
def test_what_was_not_searched_is_no_clean_file(tmp_path: Path, data: bytes) -> None:
    """S0-41: an archive, a damaged file: told, and the end is 6; a hit elsewhere is still told with 1."""
    (tmp_path / "it").write_bytes(data)
    result = run(tmp_path)
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "Not searched" in result.stderr
    (tmp_path / "other").write_text(CARD)
    again = run(tmp_path)
    assert again.exit_code == ExitCode.FOUND
    assert "Not searched" in again.stderr


def test_an_unreadable_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S0-41: whoever runs as root can read everything, so the refusal is planted."""
    (tmp_path / "it").write_text("fine")

    def refuse(_: Path, __: str) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pii_files.Path, "open", refuse)
    result = run(tmp_path)
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "Permission denied" in result.stderr


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    """Nothing to search, a path that is not there, a topic that is not ours."""
    for words in ([], [tmp_path / "missing"], ["--topic", "others"]):
        result = run(*words)
        assert result.exit_code == ExitCode.USAGE, words


def test_many_places_are_counted_and_a_thousand_are_told(tmp_path: Path) -> None:
    """S0-41: nobody reads a million rows."""
    (tmp_path / "it").write_text(f"{CARD}\n" * 1_500)
    result = run(tmp_path, "--output", "json")
    assert len(json.loads(result.stdout)) == 1_000
    assert "of 1500: CARD 1500" in result.stderr


def test_the_counts_are_metrics_too(tmp_path: Path) -> None:
    """S0-41: for the text file collector of a host; also a kind of which there is none."""
    (tmp_path / "a").write_text(CARD)
    run(tmp_path / "a", "--textfile", tmp_path / "pii.prom")
    written = (tmp_path / "pii.prom").read_text()
    assert 'pii_scan_results{kind="CARD"} 1.0' in written
    assert 'pii_scan_results{kind="SSN"} 0.0' in written
    assert "pii_scan_unsearched_files 0.0" in written
    assert "pii_scan_finished_timestamp_seconds" in written


# Topics: records as a consumer gives them.

RESULT: Mapping[str, Any] = {
    "payout_id": "payout-3f9a",
    "originator_id": "shop-17",
    "correlation_id": "correlation-3f9a",
    "amount": {"amount_minor": 2_500, "currency": "USD"},
    "corridor": {"source_country": "US", "source_currency": "USD", "target_country": "GB", "target_currency": "GBP"},
    "version": 2,
    "decided_at": datetime.now(UTC),
    "status": "PAID",
    "attempts": 1,
    "policy_version": "2025-11",
    "compensation_required": False,
    "sender_reference": "PABCDEFGHIJKLMNO",
    "requested_at": datetime.now(UTC),
}


def record(
    topic: str, value: bytes | None, key: bytes = b"payout-3f9a", headers: list[tuple[str, bytes]] | None = None
) -> Message:
    """As a consumer gives it."""
    parts = {"topic": topic, "value": value, "key": key, "headers": headers or [("ce_id", b"e-1")]}
    return cast("Message", SimpleNamespace(**{name: (lambda part=part: part) for name, part in parts.items()}))


@pytest.fixture(scope="module")
def codec() -> Iterator[BlockingCodec]:
    with BlockingCodec() as opened:
        yield opened


@pytest.mark.parametrize(
    "field", ["payout_id", "originator_id", "correlation_id", "policy_version", "sender_reference"]
)
@pytest.mark.parametrize("before", ["", "x" * 8, "a text of 24 characters "])
def test_a_number_in_any_field_of_an_event_is_found(codec: BlockingCodec, field: str, before: str) -> None:
    """S1-11: results; a length in front of a text is a byte, which may be a digit or a letter."""
    value = codec.encode("PayoutResult", {**RESULT, field: before + CARD})
    assert scan_record(record("payout_results", value), codec, ALL_KINDS) == [(f"value.{field}", Kind.CARD)]


def test_key_headers_and_what_cannot_be_decoded_are_searched(codec: BlockingCodec) -> None:
    """S1-11: retries, compensations and dead letters too: whatever the bytes are."""
    clean = codec.encode("PayoutResult", dict(RESULT))
    assert scan_record(record("payout_results", clean), codec, ALL_KINDS) == []
    for topic, value, key, headers, places_found in (
        ("payout_results", clean, CARD.encode(), [], [("key", Kind.CARD)]),
        ("payout_results", clean, b"k", [("error", f"what {CARD}".encode())], [("headers.error", Kind.CARD)]),
        ("payout_results", clean, b"k", [(CARD, b"1")], [("headers.(a name)", Kind.CARD)]),
        ("payout_dead_letters", CARD.encode(), b"k", [], [("value", Kind.CARD)]),
        ("payout_retry", b"\0\0\0\0\1" + CARD.encode(), b"k", [], [("value", Kind.CARD)]),
        ("payout_requests", f'{{"email": "user@example.com", "pan": "{CARD}"}}'.encode(), b"k", [],
         [("value", Kind.EMAIL), ("value", Kind.CARD)]),
        ("not_ours", CARD.encode(), b"k", [], [("value", Kind.CARD)]),
        ("payout_results", None, b"k", [], []),
    ):  # fmt: skip
        assert scan_record(record(topic, value, key, headers), codec, ALL_KINDS) == places_found, topic


def test_a_transaction_identifier_is_none_of_the_people(codec: BlockingCodec) -> None:
    """S1-10: Visa's have 15 digits, and in some years begin as American Express does; the name decides."""
    like_a_card = "371449635398431"
    value = codec.encode("PayoutResult", {**RESULT, "transaction_identifier": like_a_card})
    assert scan_record(record("payout_results", value), codec, ALL_KINDS) == []
    value = codec.encode("PayoutResult", {**RESULT, "transaction_identifier": CARD})
    assert scan_record(record("payout_results", value), codec, ALL_KINDS) == [
        ("value.transaction_identifier", Kind.CARD)
    ]


def test_what_is_encrypted_is_passed_over_only_if_it_is(codec: BlockingCodec) -> None:
    """S0-41: a clear text in a field for encrypted data is the leak that matters most."""
    key = jwk.JWK.generate(kty="RSA", size=2048, kid="party-1").export_public(as_dict=True)
    sealed = seal_for_processor(key, {"number": CARD})
    assert scan_record(record("payout_dead_letters", sealed.encode()), codec, ALL_KINDS) == []
    assert (
        scan_record(record("payout_results", b"x", headers=[("key_sealed", sealed.encode())]), codec, ALL_KINDS) == []
    )
    for clear in (f"eyJ {CARD}", f'{{"number":"{CARD}"}}', f"eyJa.b.c.d.e {CARD}"):
        assert scan_record(record("payout_dead_letters", clear.encode()), codec, ALL_KINDS) == [("value", Kind.CARD)]
