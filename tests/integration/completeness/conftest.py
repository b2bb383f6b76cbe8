"""The pipeline's fixtures, for tests that lose records on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.pipeline.conftest import (
    MakePipeline,
    background_loop,
    pipeline_maker,
    processor_keys,
    visa,
)

__all__ = ["background_loop", "make_pipeline", "processor_keys", "visa"]


@pytest.fixture(scope="module")
def make_pipeline(request: pytest.FixtureRequest) -> Iterator[MakePipeline]:
    """Pipelines whose workers end with the file that made them: idle ones still cost the tests behind it."""
    with pipeline_maker(request) as make:
        yield make
