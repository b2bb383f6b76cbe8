"""K5: a lost connection is an error that passes; a producer that can send nothing any more ends the worker."""

import asyncio
from types import SimpleNamespace
from typing import Any

import aiokafka.conn
import pytest
from aiokafka.errors import KafkaConnectionError

from streams import kafka_app
from streams.kafka_app import IdempotentProducer, PayoutsApp, SteadyConnection, create_app
from streams.settings import Profile, Settings


class ClosedWriter:
    """What uvloop gives when the peer reset the connection a moment ago."""

    def write(self, _: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    def close(self) -> None:
        """As closed as before."""


class Request:
    """Anything that is to be sent."""

    def prepare(self, _: Any) -> Any:
        """aiokafka's builder: this one builds a request of no bytes."""
        return SimpleNamespace(
            build_request_header=lambda **_: SimpleNamespace(encode=lambda: b""), encode=lambda: b"", API_KEY=0
        )


@pytest.fixture
def app() -> PayoutsApp:
    """An application that nobody starts."""
    return create_app(Settings(payouts_profile=Profile.TEST), "worker-1")


async def test_a_write_into_a_reset_connection_is_a_connection_error(app: PayoutsApp) -> None:
    """K5: found by the fault suite: uvloop's RuntimeError ended aiokafka's sender, and nothing was published again."""
    assert app is not None
    assert aiokafka.conn.AIOKafkaConnection is SteadyConnection, "every client of this process gets it"
    connection = SteadyConnection("127.0.0.1", 9)
    connection._writer = ClosedWriter()
    with pytest.raises(KafkaConnectionError):
        connection.send(Request())
    assert not connection.connected()


@pytest.mark.parametrize("error", [OSError("fenced"), None])
async def test_a_sender_that_ends_ends_the_worker(app: PayoutsApp, error: Exception | None) -> None:
    """K5: by an error (fenced, out of order) or without one: such a producer takes nothing more."""
    told: list[BaseException | None] = []
    app.on_sender_ended = told.append
    producer = IdempotentProducer(app.transport)

    async def ends() -> None:
        if error is not None:
            raise error

    task = asyncio.create_task(ends())
    task.add_done_callback(producer._sender_ended)
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert told == [error]


async def test_a_sender_that_is_told_to_end_ends_nothing(app: PayoutsApp) -> None:
    """A worker that is stopped stops its producer, too."""
    told: list[BaseException | None] = []
    app.on_sender_ended = told.append
    producer = IdempotentProducer(app.transport)
    await producer.stop()
    task = asyncio.create_task(asyncio.sleep(0))
    task.add_done_callback(producer._sender_ended)
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert told == []


async def test_a_producer_ends_in_bounded_time_with_the_broker_away(
    app: PayoutsApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K5: found by the fault suite: a worker told to leave hung in Faust's flush until it was killed."""
    monkeypatch.setattr(kafka_app, "PRODUCER_END_SECONDS", 0.01)

    async def for_ever(_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(kafka_app.driver.Producer, "flush", for_ever)
    monkeypatch.setattr(kafka_app.driver.Producer, "on_stop", for_ever)
    producer = IdempotentProducer(app.transport)
    await asyncio.wait_for(producer.flush(), 2.0)
    await asyncio.wait_for(producer.on_stop(), 2.0)
