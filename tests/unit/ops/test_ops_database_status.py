"""What is out of bounds in a database, by its facts alone."""

from __future__ import annotations

from typing import Any

import pytest

from ops.database_status import Bounds, bytes_text, findings
from ops.findings import Finding, Status

QUIET: dict[str, Any] = {
    "connections_max": 97,
    "connections_of_the_server": 12,
    "connections": {"payouts": 10},
    "database_bytes": 10_000_000,
    "transaction_age": 1000,
    "autovacuum": True,
    "synchronous_standby_names": "standby",
    "synchronous_commit": "on",
    "sees_all": True,
    "sessions": [],
    "tables": [],
    "indexes": [],
    "standbys": [
        {
            "name": "standby",
            "state": "streaming",
            "sync_state": "sync",
            "behind_bytes": 100,
            "replay_lag_seconds": 0.01,
        }
    ],
    "slots": [],
    "identity_numbers_issued": 17,
    "unsealed": 3,
    "unsealed_seconds": 0.4,
    "unpublished_seconds": None,
    "sealed": 10,
    "published": 10,
}
SESSION: dict[str, Any] = {
    "pid": 7,
    "login": "app",
    "application": "payouts",
    "state": "active",
    "statement": "SELECT",
    "transaction_seconds": 1.0,
    "statement_seconds": 1.0,
    "blocked_by": [],
    "waits_for": None,
}
TABLE: dict[str, Any] = {
    "table": "payouts",
    "live_rows": 100_000,
    "dead_rows": 1_000,
    "dead_share": 0.01,
    "bloat_share": 0.1,
    "heap_bytes": 100 * 1024 * 1024,
}
INDEX = {"index": "payouts_due", "valid": True}


def found(**changes: Any) -> list[Finding]:
    return list(findings(QUIET | changes, Bounds()))


def test_a_quiet_database_has_no_finding() -> None:
    assert found() == []
    assert found(sessions=[SESSION], tables=[TABLE], indexes=[INDEX]) == []


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("connections", {"connections_of_the_server": 78}),
        ("statements", {"sessions": [SESSION | {"statement_seconds": 31.0}]}),
        ("transactions", {"sessions": [SESSION | {"state": "idle in transaction", "transaction_seconds": 301.0}]}),
        ("locks", {"sessions": [SESSION | {"blocked_by": [8, 9], "statement_seconds": 6.0}]}),
        ("size", {"database_bytes": 11 * 1024**3}),
        ("vacuum", {"transaction_age": 1_500_000_000}),
        ("vacuum", {"autovacuum": False}),
        ("bloat", {"tables": [TABLE | {"dead_rows": 60_000, "dead_share": 0.375}]}),
        ("bloat", {"tables": [TABLE | {"bloat_share": 0.6}]}),
        ("indexes", {"indexes": [INDEX | {"valid": False}]}),
        ("standby", {"standbys": []}),
        ("standby", {"standbys": [QUIET["standbys"][0] | {"state": "catchup"}]}),
        ("standby", {"standbys": [QUIET["standbys"][0] | {"behind_bytes": 10**9}]}),
        ("standby", {"standbys": [QUIET["standbys"][0] | {"replay_lag_seconds": 31.0}]}),
        ("standby", {"synchronous_commit": "local"}),
        ("slots", {"slots": [{"slot": "gone", "kept_bytes": 5 * 1024**3}]}),
        ("numbers", {"identity_numbers_issued": 800_000_000_000}),
        ("seals", {"unsealed_seconds": 61.0}),
        ("seals", {"unpublished_seconds": 61.0, "published": 3}),
    ],
)
def test_what_is_out_of_bounds_is_a_failure_with_advice(check: str, changes: dict[str, Any]) -> None:
    """S3-07, S4-29: each bound by itself."""
    (one,) = findings(QUIET | changes, Bounds(database_bytes=10 * 1024**3))
    assert (one.check, one.status) == (check, Status.FAIL)
    assert one.detail
    assert one.advice


@pytest.mark.parametrize(
    "changes",
    [{"sees_all": False}, {"synchronous_standby_names": "", "standbys": []}],
    ids=lambda value: next(iter(value)),
)
def test_what_may_be_meant_so_is_a_warning(changes: dict[str, Any]) -> None:
    """A laptop has no standby, and not every login may see everything: said, and no failure."""
    assert [one.status for one in found(**changes)] == [Status.WARN]


def test_small_tables_are_nobodys_work() -> None:
    small = TABLE | {"live_rows": 10, "dead_rows": 90, "dead_share": 0.9, "bloat_share": 0.9, "heap_bytes": 8192}
    assert found(tables=[small]) == []


def test_a_waiting_session_is_named_once_by_what_it_waits_for() -> None:
    waiting = SESSION | {"blocked_by": [8], "statement_seconds": 100.0}
    assert [one.check for one in found(sessions=[waiting])] == ["locks"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (64 * 1024**2, "64 MiB"), (5 * 1024**5, "5120 TiB")],
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert bytes_text(count) == text
