"""Migrated databases for the ledger's integration tests."""

from __future__ import annotations

from tests.contract.ledger.ledger_fixtures import ledger_template, ledger_url, shared_ledger_url

__all__ = ["ledger_template", "ledger_url", "shared_ledger_url"]
