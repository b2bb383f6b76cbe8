"""A backup's directory: whole, or refused."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops import audit, offset_apply
from ops.backup_files import (
    DUMP,
    MANIFEST,
    OFFSETS,
    Manifest,
    Part,
    checked,
    prepared_directory,
    seal_directory,
)
from ops.backup_programs import run_program, without_password
from ops.backup_topics import Committed, Offsets, ahead_of, offsets_of
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.private_files import write_private

AT = datetime(2026, 11, 28, 12, 0, 0, 123456, tzinfo=UTC)
MANIFEST_OF_A_TEST = Manifest(
    backup_id="01J",
    created_by="maria",
    program="0.1.0",
    postgresql="18.1",
    major=18,
    revision="0009",
    system_identifier="7",
    timeline=1,
    sequence=10,
    hash="e" * 64,
    published_sequence=9,
    identity_position=17,
    history_lines=12,
    snapshot_at=AT,
    offsets_at=AT - timedelta(seconds=1),
    topics_at=AT + timedelta(seconds=1),
    money=({"state": "PAID", "currency": "USD", "payouts": 2, "amount_minor": 5000},),
)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    directory = tmp_path / "backup"
    (directory / "topics").mkdir(parents=True)
    (directory / DUMP).write_bytes(b"PGDMP" + bytes(range(256)))
    (directory / OFFSETS).write_text("{}")
    (directory / "topics" / "payout_requests.jsonl.gz").write_bytes(b"\x1f\x8b")
    seal_directory(directory, MANIFEST_OF_A_TEST)
    return directory


def code_of(directory: Path) -> ExitCode:
    with pytest.raises(CommandFailed) as failure:
        checked(directory)
    assert failure.value.next_step
    return failure.value.code


def test_a_whole_backup_says_what_it_is(backup: Path) -> None:
    found = checked(backup)
    assert replace(found, files={}, money=()) == replace(MANIFEST_OF_A_TEST, money=())
    assert found.money[0]["amount_minor"] == 5000
    assert found.parts == [Part.LEDGER, Part.TOPICS, Part.OFFSETS]
    assert (backup / MANIFEST).stat().st_mode & 0o077 == 0


def test_every_changed_byte_of_every_file_is_refused(backup: Path) -> None:
    """Issue 7, S4-31: also of the manifest and of its own hash."""
    files = [path for path in backup.rglob("*") if path.is_file()]
    assert len(files) == 5
    for path in files:
        whole = path.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 2}:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert code_of(backup) is ExitCode.REFUSED, (path, place)
        path.write_bytes(whole)
        checked(backup)


def test_a_file_that_is_missing_longer_or_shorter_is_refused(backup: Path) -> None:
    whole = (backup / DUMP).read_bytes()
    (backup / DUMP).write_bytes(whole[:-1])
    assert code_of(backup) is ExitCode.REFUSED
    (backup / DUMP).write_bytes(whole + b"\0")
    assert code_of(backup) is ExitCode.REFUSED
    (backup / DUMP).unlink()
    assert code_of(backup) is ExitCode.REFUSED


def test_what_is_no_backup_is_said_to_be_none(tmp_path: Path) -> None:
    assert code_of(tmp_path) is ExitCode.USAGE
    assert code_of(tmp_path / "not there") is ExitCode.USAGE


def test_a_manifest_of_another_format_or_that_names_another_place_is_refused(backup: Path) -> None:
    from ops.backup_files import MANIFEST_HASH, sha256_of

    def sealed_again(text: str) -> None:
        (backup / MANIFEST).write_text(text)
        (backup / MANIFEST_HASH).write_text(f"{sha256_of(backup / MANIFEST)[0]}  {MANIFEST}\n")

    whole = (backup / MANIFEST).read_text()
    for wrong in (whole.replace('"format": 1', '"format": 2'), "[]", "{}", whole.replace(DUMP, "../../elsewhere")):
        sealed_again(wrong)
        assert code_of(backup) is ExitCode.REFUSED
    sealed_again(whole)
    checked(backup)


def test_offsets_of_later_and_topics_of_before_do_not_belong_to_a_ledger() -> None:
    """Issue 7, S4-32: never later than the ledger; results that it has published are never missing."""
    assert MANIFEST_OF_A_TEST.order_problem() is None
    assert replace(MANIFEST_OF_A_TEST, offsets_at=None, topics_at=None).order_problem() is None
    later = replace(MANIFEST_OF_A_TEST, offsets_at=AT + timedelta(microseconds=1))
    assert "read by nobody" in str(later.order_problem())
    before = replace(MANIFEST_OF_A_TEST, topics_at=AT - timedelta(microseconds=1))
    assert "missing" in str(before.order_problem())


def test_a_file_of_ours_is_new_and_its_owners(tmp_path: Path) -> None:
    """P6: backups, exports and plans: nobody else reads them, none is written over, whatever the umask."""
    before = os.umask(0)
    try:
        write_private(tmp_path / "backup.json", "one\r\n")
        offset_apply.write_new(tmp_path / "plan.json", b"one\n")
        with audit._new_file(tmp_path / "export.csv") as file:
            file.write("one\r\n")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
        ("backup.json", "plan.json", "export.csv"), 0o600
    )
    assert (tmp_path / "export.csv").read_bytes() == (tmp_path / "backup.json").read_bytes() == b"one\r\n"
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "backup.json", "two")
    with pytest.raises(CommandFailed):
        offset_apply.write_new(tmp_path / "plan.json", b"two")
    with pytest.raises(CommandFailed), audit._new_file(tmp_path / "export.csv"):
        pass
    assert (tmp_path / "plan.json").read_bytes() == b"one\n"


def test_a_backup_is_never_overwritten_and_never_half_there(tmp_path: Path) -> None:
    target = tmp_path / "new"
    partial = prepared_directory(target)
    assert not target.exists()
    assert partial.stat().st_mode & 0o777 == 0o700
    with pytest.raises(CommandFailed) as failure:
        prepared_directory(target)
    assert failure.value.code is ExitCode.USAGE
    partial.rename(target)
    (target / "something").touch()
    with pytest.raises(CommandFailed):
        prepared_directory(target)


def committed(offset: int | None, topic: str = "payout_requests", partition: int = 0) -> Committed:
    return Committed(topic, "id", partition, offset, 100)


@pytest.mark.parametrize(
    ("offset", "known", "ahead"),
    [(10, 10, False), (9, 10, False), (11, 10, True), (1, None, True), (0, None, False), (None, None, False)],
)
def test_offsets_may_be_behind_the_ledger_and_never_ahead(offset: int | None, known: int | None, ahead: bool) -> None:
    """K9, S4-32: an inbound record that nobody reads is a payout that is lost."""
    saved = Offsets("payouts", [committed(offset)], {"payout_requests": 3})
    answers = {} if known is None else {("payout_requests", 0): known}
    assert bool(ahead_of(saved, answers, ["payout_requests"])) is ahead
    assert ahead_of(saved, answers, ["payout_review_decisions"]) == [], "the ledger drives all other topics by itself"


def test_offsets_come_back_as_they_were_written() -> None:
    saved = Offsets("payouts", [committed(7), committed(None, partition=1)], {"payout_requests": 2})
    assert offsets_of(saved.document()) == saved


def test_no_password_stands_on_a_command_line() -> None:
    """P6: every user of a machine can read every command line."""
    address, password = without_password("postgresql://app:s%40cret@one:5432,two:5432/payouts?sslmode=require")
    assert (address, password) == ("postgresql://app@one:5432,two:5432/payouts?sslmode=require", "s@cret")
    assert without_password("postgresql://app@one/payouts") == ("postgresql://app@one/payouts", None)


@pytest.mark.parametrize(
    ("query", "address", "password"),
    [
        ("?password=s%40cret", "", "s@cret"),
        (
            "?sslmode=require&password=s%26c&sslrootcert=/etc/a%20b.pem",
            "?sslmode=require&sslrootcert=/etc/a%20b.pem",
            "s&c",
        ),
        ("?host=one:5432,two:5432&password=x", "?host=one:5432,two:5432", "x"),
        ("?options=-c%20a%3Db", "?options=-c%20a%3Db", None),
    ],
)
def test_a_password_among_the_parameters_stands_on_none_either(query: str, address: str, password: str) -> None:
    """P6: `?password=` is as good a place for one as before the host, and as visible to everybody in `ps`."""
    assert without_password(f"postgresql://app@one/payouts{query}") == (
        f"postgresql://app@one/payouts{address}",
        password,
    )


def test_the_one_before_the_host_wins_and_that_of_a_key_is_refused() -> None:
    """P6: as our own connections read it; a key's password has no other way to pg_dump than its command line."""
    assert without_password("postgresql://app:one@h/p?password=two") == ("postgresql://app@h/p", "one")
    with pytest.raises(CommandFailed) as failure:
        without_password("postgresql://app@h/p?sslpassword=s3cret")
    assert failure.value.code is ExitCode.USAGE
    assert "s3cret" not in str(failure.value)


def test_the_program_sees_the_password_in_its_environment_only(tmp_path: Path) -> None:
    """P6: what `ps` shows of a real child process, for either place of the password."""
    program = tmp_path / "pg_dump"
    program.write_text('#!/bin/sh\ntr "\\0" " " </proc/$$/cmdline >"$2"\nprintf %s "$PGPASSWORD" >"$2.password"\n')
    program.chmod(0o700)
    for number, url in enumerate(("postgresql://app:s3cret@h/p", "postgresql://app@h/p?password=s3cret")):
        seen = tmp_path / f"seen-{number}"
        run_program(program, ["--file", str(seen)], url)
        assert "--dbname" in seen.read_text()
        assert "s3cret" not in seen.read_text()
        assert (tmp_path / f"seen-{number}.password").read_text() == "s3cret"
