"""One Visa stand-in and one set of keys for all; a pipeline (prefix, ledger, workers) for each module that asks."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.servers.visa_stand_in import VisaStandIn
from streams.keys import create_keys
from tests.integration.pipeline.pipeline_harness import Loop, Pipeline
from tests.integration.pipeline.span_collector import SpanCollector

MakePipeline = Callable[..., Pipeline]


@pytest.fixture(scope="session")
def background_loop() -> Iterator[Loop]:
    """The event loop behind the harness."""
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def visa() -> Iterator[VisaStandIn]:
    """Visa Direct's stand-in, with its own durable ledger."""
    server = VisaStandIn()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def processor_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keys directory as `payouts keys create` makes it."""
    directory = tmp_path_factory.mktemp("processor") / "keys"
    create_keys(directory)
    return directory


@contextlib.contextmanager
def pipeline_maker(request: pytest.FixtureRequest) -> Iterator[MakePipeline]:
    """Makes pipelines that share servers and nothing else; all their workers end with this context."""
    kafka, postgres, visa, keys, loop, directories = (
        request.getfixturevalue(name)
        for name in ("kafka", "postgres", "visa", "processor_keys", "background_loop", "tmp_path_factory")
    )
    with contextlib.ExitStack() as opened:

        def make(
            server: Any = postgres,
            kafka_server: Any = kafka,
            registry_url: str | None = None,
            own_visa: VisaStandIn | None = None,
            **partitions: int,
        ) -> Pipeline:
            name = f"t{uuid.uuid4().hex[:8]}"
            pipeline = Pipeline(
                prefix=f"{name}-",
                database_url=server.create_database(f"payouts_{name}"),
                bootstrap_servers=kafka_server.bootstrap_servers,
                keys=keys,
                directory=directories.mktemp(name),
                visa=own_visa or visa,
                loop=loop,
                registry_url=registry_url,
            )
            opened.callback(pipeline.close)
            return pipeline.create(partitions)

        yield make


@pytest.fixture(scope="session")
def make_pipeline(request: pytest.FixtureRequest) -> Iterator[MakePipeline]:
    """Pipelines for the whole session."""
    with pipeline_maker(request) as make:
        yield make


@pytest.fixture(scope="session")
def collector() -> Iterator[SpanCollector]:
    """An OpenTelemetry collector that keeps what it is sent."""
    with SpanCollector() as opened:
        yield opened


@pytest.fixture(scope="session")
def running(make_pipeline: MakePipeline, collector: SpanCollector) -> Pipeline:
    """A pipeline with one worker of all agents, shared by tests that look at their own payouts only; it is traced."""
    pipeline = make_pipeline()
    pipeline.worker("shared", extra=collector.environment()).wait_until_assigned()
    return pipeline
