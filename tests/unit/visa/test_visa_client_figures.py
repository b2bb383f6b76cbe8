"""B12: what `bench/visa_client.py` tells of latency, throughput and errors; which time it was is nobody's promise."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.visa_client import CLIENTS, Call, Server, _load, with_shares
from processors.visa.requests import VisaRequest

SERVER = Server("canned", "https://127.0.0.1:1", {})
SECONDS = 0.02


def figure(client: str, calls_per_second: float, in_flight: int = 10) -> dict[str, object]:
    return {"server": "canned", "client": client, "in_flight": in_flight, "calls_per_second": calls_per_second}


async def test_b12_latency_is_told_as_percentiles_beside_calls_a_second() -> None:
    """B12: p50, p99, calls a second and CPU a call, of the same calls; as many in flight as were asked for."""
    under_way, most = itertools.count(), []

    @asynccontextmanager
    async def client(_: Server, in_flight: int) -> AsyncIterator[Call]:
        most.append(in_flight)

        async def call(request: VisaRequest) -> object:
            assert request.body is not None
            next(under_way)
            return {"actionCode": "00"}

        yield call

    told = await _load(client, SERVER, 3, SECONDS)
    assert set(told) == {"calls", "calls_per_second", "p50_ms", "p99_ms", "cpu_ms_a_call"}
    assert 0 <= told["p50_ms"] <= told["p99_ms"]
    assert told["calls"] + 3 == next(under_way), "the first call of each only connects"
    assert most == [3]


async def test_b12_an_error_ends_the_measurement() -> None:
    """B12: figures of a client that fails would be figures of failing."""

    @asynccontextmanager
    async def client(_server: Server, _in_flight: int) -> AsyncIterator[Call]:
        async def call(_: VisaRequest) -> object:
            return {"actionCode": "91"}

        yield call

    with pytest.raises(AssertionError, match="not an approval"):
        await _load(client, SERVER, 1, SECONDS)


def test_b12_throughput_is_a_share_within_one_run() -> None:
    """B12: of the same server and as many in flight; of nothing else."""
    names = list(CLIENTS)
    assert "aiohttp" in names
    figures = [figure("client", 800.0), figure("aiohttp", 1000.0), figure("httpx pool", 50.0)]
    told = with_shares([*figures, figure("client", 300.0, in_flight=1)])
    assert [one["of_aiohttp"] for one in told] == [0.8, 1.0, 0.05, None]
    assert [{name: one[name] for name in figures[0]} for one in told[:3]] == figures
