"""What can be turned on the stand-in, and the bounds of the imitation, with the reason for each number."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

LOOPBACK: Final = "127.0.0.1"

# Visa's header page: a POST is answered within 30 s or becomes a 202; a larger header value switches that off.
TRANSACTION_TIMEOUT_MAX_MS: Final = 30_000
# Visa's own sample tests force a 202 with a header of 1 ms and then expect a GET made at once to be a 202 too,
# so work that was cut off that way still takes a moment.
FORCED_TIMEOUT_MS: Final = 1
FORCED_TIMEOUT_WORK_SECONDS: Final = 0.5
# The design's fault model: the duplicate key is honoured for 24 h. Visa's pages: so is the status URL, and a
# reversal must come within 24 h of its AFT.
DUPLICATE_WINDOW_SECONDS: Final = 24 * 3600
STATUS_WINDOW_SECONDS: Final = 24 * 3600
REVERSAL_WINDOW_SECONDS: Final = 24 * 3600
# Visa's OpenAPI: the query looks back 120 days and gives ten rows at most.
QUERY_WINDOW_SECONDS: Final = 120 * 24 * 3600
QUERY_ROWS_MAX: Final = 10
# Visa's sample clients of the Reports API (2018): five days at once, of the last 120, a hundred rows a page by default;
# that no page may be larger is inferred.
REPORT_DAYS_MAX: Final = 5
REPORT_DAYS_BACK_MAX: Final = 120
REPORT_ROWS_MAX: Final = 100
# Visa's encryption guide: a JWE is valid for two minutes, in both directions for clocks that differ.
MLE_VALIDITY_MS: Final = 120_000
# A push with every optional field is under 10 KiB; a fault plan of some hundred rules is under 100 KiB.
BODY_BYTES_MAX: Final = 256 * 1024
# Visa gives no length; every id in use (UUID, ULID, hash) is far below, and the ledger keeps each for ever.
CLIENT_ID_CHARACTERS_MAX: Final = 128
ADMIN_PAGE_DEFAULT: Final = 500
ADMIN_PAGE_MAX: Final = 5_000
# Longer than any client waits (35 s in production), so that it is always the client who gives up first.
SILENCE_SECONDS: Final = 60.0
FAULT_SECONDS_MAX: Final = 3_600.0
FAULT_RULES_MAX: Final = 500
# Idle connections outlive the gap between two retries of one payout; handlers get this long at the end.
KEEPALIVE_SECONDS: Final = 75.0
SHUTDOWN_SECONDS: Final = 1.0
# The acquiring BIN of Visa's samples and sandbox, with the country (numeric) it is enrolled for.
ENROLLED: Final = {"408999": "840"}


@dataclass(frozen=True, slots=True)
class Settings:
    """One running stand-in. All times are in seconds; port 0 takes a free one.

    ``acquirers`` are the BINs enrolled for this project, each with its numeric country.
    ``clock`` gives seconds since the epoch and exists so that a test can let 24 hours pass.
    """

    state_directory: Path
    port: int = 0
    admin_port: int = 0
    latency_seconds: float = 0.0
    query_lag_seconds: float = 0.0
    query_amount_after_seconds: float = 0.0
    query_no_match: Literal["empty", "404"] = "empty"
    accepted_body: Literal["json", "text"] = "json"
    accepted_headers: Literal["none", "location", "link"] = "none"
    accounts_pace_seconds: float = 0.5
    mle_error_code: str = "9125"
    acquirers: Mapping[str, str] = field(default_factory=lambda: dict(ENROLLED))
    clock: Callable[[], float] = time.time
