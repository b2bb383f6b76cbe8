"""What Faust can tell: its rebalances. Its own Prometheus sensor breaks naming rules and counts per event in Python."""

import time
from typing import Any

from faust.sensors.base import Sensor

from streams.metrics import Metrics


class WorkerSensor(Sensor):
    """Counts rebalances and times them, from the loss of the partitions to reading again."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        super().__init__()

    def on_rebalance_start(self, _app: Any) -> dict[str, float]:
        """Count it; what is given back comes again at its end."""
        self._metrics.rebalances.inc()
        return {"begun": time.monotonic()}

    def on_rebalance_end(self, _app: Any, state: dict[str, float]) -> None:
        """Reading goes on."""
        self._metrics.rebalance_seconds.observe(time.monotonic() - state["begun"])
