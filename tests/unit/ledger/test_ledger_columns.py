"""No column can be forgotten, and no statement binds a value where another is read."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import datetime
from pathlib import Path

import pytest

from ledger import statements
from ledger.migrate import _statements, revision_status
from ledger.values import COLUMNS, DERIVED_FIELDS, LEDGER_COLUMNS, sql_type
from processors.payout.row import FIXED_COLUMNS, MUTABLE_COLUMNS, PayoutRow

ROOT = Path(statements.__file__).parents[1]


def test_l2_every_field_of_the_row_is_written_by_exactly_one_hand() -> None:
    parts = (FIXED_COLUMNS, MUTABLE_COLUMNS, LEDGER_COLUMNS, DERIVED_FIELDS)
    listed = [name for part in parts for name in part]
    assert sorted(listed) == sorted(field.name for field in fields(PayoutRow))
    assert len(listed) == len(set(listed))


def test_every_column_has_a_type() -> None:
    assert {sql_type(column) for column in COLUMNS} == {"text", "bigint", "boolean", "timestamptz", "bytea"}
    assert sql_type("state") == "text"
    assert sql_type("lease_until") == "timestamptz"
    assert sql_type("funding_captured") == "boolean"
    assert sql_type("sealed_body") == "bytea"


ONE_ROW_AND_MANY = [
    (statements.INSERT, statements.INSERT_COLUMNS, ()),
    (statements.COMMIT, MUTABLE_COLUMNS, statements.COMMIT_EXTRAS),
    (statements.BEGIN, MUTABLE_COLUMNS, statements.BEGIN_EXTRAS),
    (statements.INSERT_MANY, statements.INSERT_COLUMNS, ()),
    (statements.COMMIT_MANY, MUTABLE_COLUMNS, statements.COMMIT_EXTRAS),
    (statements.BEGIN_MANY, MUTABLE_COLUMNS, statements.BEGIN_EXTRAS),
]
NAMES = ["insert", "commit", "begin", "insert many", "commit many", "begin many"]


@pytest.mark.parametrize(("statement", "columns", "extras"), ONE_ROW_AND_MANY, ids=NAMES)
def test_l2_l5_a_hot_statement_reads_each_parameter_once_and_names_it(
    statement: str, columns: tuple[str, ...], extras: tuple[tuple[str, str], ...]
) -> None:
    """An insert binds the actor as $1, behind the request; every other number belongs to one column of the request."""
    numbers = [int(number) for number in re.findall(r"\$(\d+)", statement)]
    first = 1 if extras else 2
    assert numbers == [*range(first, first + len(columns) + len(extras)), *([] if extras else [1])]
    head = re.search(r"request \(([^)]*)\)", statement)
    assert head is not None
    assert head[1].split(", ") == [f"r_{name}" for name in (*(name for name, _ in extras), *columns)]


def test_l2_compare_and_set_writes_every_mutable_column_and_the_history() -> None:
    for statement in (statements.COMMIT, statements.BEGIN, statements.COMMIT_MANY, statements.BEGIN_MANY):
        for column in MUTABLE_COLUMNS:
            assert f"{column} = request.r_{column}" in statement
        assert "version = p.version + 1" in statement
        assert "INSERT INTO history" in statement


def test_l5_a_batch_locks_its_rows_in_one_order_and_waits_for_none() -> None:
    for statement in (statements.COMMIT_MANY, statements.BEGIN_MANY):
        locking = statement[: statement.index("UPDATE payouts")]
        assert re.search(r"ORDER BY p\.payout_id\s+FOR NO KEY UPDATE OF p SKIP LOCKED", locking)
    assert 'ORDER BY r_payout_id COLLATE "C"' in statements.INSERT_MANY
    assert "ORDER BY originator_id, funding_kind, funding_reference, payout_id" in statements.INSERT_MANY
    assert "ORDER BY named.pull, i.payout_id" in statements.INSERT_MANY


def test_l4_times_of_the_lease_and_the_schedule_are_the_databases() -> None:
    """No statement but those that carry a decision's own moments binds a time."""
    for name in ("DUE", "UNANNOUNCED", "MARK_ANNOUNCED", "SET_MODE", "STILL_LIVE"):
        assert "timestamptz" not in getattr(statements, name)
    for statement in (statements.BEGIN, statements.BEGIN_MANY):
        assert "lease_until = clock_timestamp()" in statement
        assert datetime.__name__ not in statement


def test_migrations_are_packaged_and_found_by_package_not_by_path(tmp_path: Path, monkeypatch: object) -> None:
    folders = {path.parent for path in (ROOT / "ledger").rglob("*.py")}
    assert ROOT / "ledger" / "migrations" / "versions" in folders
    assert all((folder / "__init__.py").exists() for folder in folders), "the build takes packages only"
    assert isinstance(monkeypatch, pytest.MonkeyPatch)
    monkeypatch.chdir(tmp_path)
    status = revision_status(None)
    assert (status.current, status.pending[-1], status.is_current) == (None, status.head, False)


def test_every_migration_is_sent_as_single_whole_transactions() -> None:
    collected = [statement.strip() for statement in _statements(None)]
    assert collected[0] == "BEGIN;"
    assert collected[-1] == "COMMIT;"
    assert collected.count("BEGIN;") == collected.count("COMMIT;")
    assert not any(statement.startswith("--") for statement in collected)


def test_a_database_from_the_future_is_left_alone() -> None:
    status = revision_status("9999")
    assert (status.current, status.pending, status.ahead, status.is_current) == ("9999", (), True, True)


def test_a_current_database_has_nothing_pending() -> None:
    head = revision_status(None).head
    assert revision_status(head).pending == ()
    assert not revision_status(head).ahead
