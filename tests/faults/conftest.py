"""The pipeline harness of the integration tests, for one accident at a time; all of them at once: `make faults`."""

from __future__ import annotations

from tests.integration.pipeline.conftest import background_loop, make_pipeline, processor_keys, visa

__all__ = ["background_loop", "make_pipeline", "processor_keys", "visa"]
