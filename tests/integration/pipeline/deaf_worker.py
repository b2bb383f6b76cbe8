"""A worker that never hears of another mode: started by test_pipeline_modes only.

    python -m tests.integration.pipeline.deaf_worker

It takes requests, screens them and tries to submit them in every mode, as one would that was frozen between its last
look and its next call. Whatever it cannot do, the ledger forbids (rule L9).
"""

from __future__ import annotations

from processors.payout.modes import Mode
from streams.bootstrap import run_worker
from streams.modes import ModeWatch
from streams.settings import load_settings


async def hear_nothing(self: ModeWatch) -> None:
    """What it believed when it started."""
    self.saw(Mode.NORMAL)


if __name__ == "__main__":
    ModeWatch.look = hear_nothing  # type: ignore[method-assign]
    run_worker(load_settings())
