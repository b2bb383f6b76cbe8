"""The pipeline's fixtures, for tests that lose records on purpose."""

from tests.integration.pipeline.conftest import background_loop, make_pipeline, processor_keys, visa

__all__ = ["background_loop", "make_pipeline", "processor_keys", "visa"]
