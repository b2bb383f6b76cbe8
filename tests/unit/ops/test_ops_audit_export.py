"""Exports of the audit: what was written is checked by files alone; whatever is changed in them shows (L10, S4-31)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.seal_chain import EMPTY, Line, Origin, sealed
from ops.audit_export import (
    MANIFEST,
    ExportWriter,
    Format,
    NotAnExport,
    check_export,
    file_name,
    manifest_of,
)
from ops.output import to_json

CARD = "4957030420210462"
AT = datetime(2026, 3, 1, 12, 0, 0, 7, tzinfo=UTC)
ORIGIN = Origin("7440000000000000001", 1, 17)
REASONS = ("INC-1", "=1+1", "", "'quoted'", "-5", 'a "b", c', "é\u2028", "@x", "+1", "a\tb", "\r", "a\r\nb", "\n")


def lines(reasons: tuple[str, ...] = REASONS) -> list[Line]:
    return [
        Line(
            history_id=number,
            at=AT + timedelta(seconds=number),
            actor="maria",
            transition="held",
            payout_id=f"payout-{number:08d}" if number % 2 else None,
            version=3 if number % 2 else None,
            from_state=None if number == 1 else "CLEARED",
            to_state="CLEARED",
            detail={"reason": reason, "number": number},
        )
        for number, reason in enumerate(reasons, start=1)
    ]


def exported(directory: Path, form: Format, records: list[dict[str, Any]]) -> Path:
    """The manifest of an export of these records."""
    directory.mkdir(exist_ok=True)
    path = directory / file_name(int(records[0]["sequence"]), int(records[-1]["sequence"]), form)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = ExportWriter(file, form)
        for record in records:
            writer.write(record)
    manifest = manifest_of(writer.done, path, form=form, system_identifier="744", created_at=AT, retention_days=2555)
    (directory / MANIFEST).write_text(to_json(manifest))
    return directory / MANIFEST


@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize("first", [0, 4])
def test_s4_31_an_export_is_checked_by_itself(tmp_path: Path, form: Format, first: int) -> None:
    """S4-31, L10: from the first record or from the middle, with whatever operators wrote."""
    records = sealed(EMPTY, lines(), ORIGIN)[first:]
    manifest = exported(tmp_path, form, records)
    assert check_export(manifest) == ([], len(records))
    said = json.loads(manifest.read_text())
    assert (said["first_sequence"], said["last_sequence"]) == (first + 1, len(REASONS))
    assert (said["head_hash"], said["keep_until"]) == (records[-1]["hash"], "2033-02-27")
    assert said["masked_sequences"] == []


@pytest.mark.parametrize("form", list(Format))
def test_l10_whatever_is_changed_in_a_file_shows_with_its_place(tmp_path: Path, form: Format) -> None:
    """L10: changed, removed, inserted or in another order, even where the manifest was made to fit."""
    manifest = exported(tmp_path, form, sealed(EMPTY, lines(), ORIGIN))
    said = json.loads(manifest.read_text())
    path = tmp_path / said["files"][0]["name"]
    whole = path.read_text().split("\n")
    row = next(number for number, line in enumerate(whole) if "payout-00000003" in line)
    for tampered in (
        [*whole[:row], whole[row].replace("payout-00000003", "payout-00000009"), *whole[row + 1 :]],
        [*whole[:row], *whole[row + 1 :]],
        [*whole[: row + 1], whole[row].replace("payout-00000003", "payout-00000009"), *whole[row + 1 :]],
        [*whole[:row], whole[row + 1], whole[row], *whole[row + 2 :]],
    ):
        path.write_text("\n".join(tampered))
        told = [flaw.what for flaw in check_export(manifest)[0]]
        assert any("SHA-256" in what for what in told)
        assert len(told) > 1, "also the chain tells, whatever the manifest says"
        assert any(flaw.sequence is not None for flaw in check_export(manifest)[0])


def test_l10_an_export_that_is_cut_or_not_one_shows(tmp_path: Path) -> None:
    """L10: a file that is gone, a manifest of another kind, a path out of the directory."""
    manifest = exported(tmp_path, Format.CSV, sealed(EMPTY, lines(), ORIGIN))
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(said | {"last_sequence": said["last_sequence"] + 1}))
    assert any("missing" in flaw.what for flaw in check_export(manifest)[0])
    manifest.write_text(json.dumps(said | {"head_hash": "0" * 64}))
    assert [flaw.chain for flaw in check_export(manifest)[0]] == [MANIFEST]
    manifest.write_text(json.dumps(said))
    (tmp_path / said["files"][0]["name"]).unlink()
    assert "is missing" in check_export(manifest)[0][0].what
    for text in ("", "[]", "{}", json.dumps(said | {"files": [said["files"][0] | {"name": "../x.csv"}]})):
        manifest.write_text(text)
        with pytest.raises(NotAnExport):
            check_export(manifest)


@pytest.mark.parametrize("form", list(Format))
def test_p6_no_card_number_and_no_address_leaves_with_an_export(tmp_path: Path, form: Format) -> None:
    """P6: masked, and said to be; the chain is followed through it."""
    reasons = ("INC-1", f"card {CARD}", "ask mara@example.com", "INC-2")
    manifest = exported(tmp_path, form, sealed(EMPTY, lines(reasons), ORIGIN))
    said = json.loads(manifest.read_text())
    text = (tmp_path / said["files"][0]["name"]).read_text()
    assert CARD not in text
    assert "example.com" not in text
    assert said["masked_sequences"] == [2, 3]
    assert check_export(manifest) == ([], 4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    reason=st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=30),
    form=st.sampled_from(list(Format)),
)
def test_l10_property_whatever_a_person_wrote_comes_back(tmp_path: Path, reason: str, form: Format) -> None:
    """L10: an export loses nothing of what its hash is over, but where it says that it masked something."""
    manifest = exported(tmp_path, form, sealed(EMPTY, lines((reason, "INC-2")), ORIGIN))
    assert check_export(manifest) == ([], 2)
