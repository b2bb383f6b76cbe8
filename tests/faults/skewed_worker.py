"""A worker whose clock is wrong by PAYOUTS_TEST_SKEW_SECONDS: started by test_fault_clock_skew only.

PAYOUTS_TEST_SKEW_SECONDS=-1 python -m tests.faults.skewed_worker
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta

from streams.bootstrap import run_worker
from streams.settings import load_settings

SKEW = timedelta(seconds=float(os.environ.get("PAYOUTS_TEST_SKEW_SECONDS", "0")))


def skewed_now() -> datetime:
    """What this machine's clock would say if it were wrong."""
    return datetime.now(UTC) + SKEW


if __name__ == "__main__":
    for name, module in list(sys.modules.items()):
        if name.startswith("streams.") and hasattr(module, "utc_now"):
            module.utc_now = skewed_now  # type: ignore[attr-defined]  # there where it was imported
    run_worker(load_settings())
