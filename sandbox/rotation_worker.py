"""A worker of the test profile whose calls to Visa may take as long as in production; `sandbox.rotation` starts it.

The test profile gives a call three seconds, which keep few calls in flight on a small machine.

    python -m sandbox.rotation_worker worker [--agents NAME,...]
"""

from __future__ import annotations

import sys

from streams.bootstrap import run_worker
from streams.settings import AGENT_NAMES, Settings, load_settings

CALL_SECONDS = 35.0

if __name__ == "__main__":
    Settings.http_total_seconds = property(lambda _: CALL_SECONDS)  # type: ignore[method-assign, assignment]
    run_worker(load_settings(), tuple(sys.argv[-1].split(",")) if "--agents" in sys.argv else AGENT_NAMES)
