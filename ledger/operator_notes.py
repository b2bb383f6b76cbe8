"""A line of the audited history about what an operator does, for actions that have no table (rule L10)."""

import json
from collections.abc import Mapping
from typing import Any, Final

from ledger.restoring import opened

SMOKE_BEGUN: Final = "smoke_begun"
INTAKE_DRIVE_BEGUN: Final = "intake_drive_begun"
INTAKE_DRIVEN: Final = "intake_driven"
TOPICS_CREATED: Final = "topics_created"
SCHEMAS_PUSHED: Final = "schemas_pushed"
# What takes data out, written before any of it leaves: it may fail afterwards, but nothing leaves without a line.
BACKUP_BEGUN: Final = "ledger_backup_begun"
AUDIT_EXPORT_BEGUN: Final = "audit_export_begun"
FORENSICS_BEGUN: Final = "forensics_begun"
NOTE: Final = """
INSERT INTO history (actor, transition, from_state, to_state, detail) VALUES ($1, $2, NULL, $3, $4::jsonb)
"""


async def note(database_url: str, operator: str, transition: str, detail: Mapping[str, Any]) -> None:
    """Write it; `detail` has the reason. Raises LedgerError."""
    async with opened(database_url, application_name="payouts command") as connection:
        await connection.execute(NOTE, operator, transition, transition.upper(), json.dumps(dict(detail)))
