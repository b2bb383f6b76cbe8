"""How many records a stage has not taken yet, asked of Kafka from outside the consumer; cached for a moment."""

import asyncio
import time
from collections.abc import Mapping

from confluent_kafka import Consumer, TopicPartition

from schemas.topics import topic_name

CACHE_SECONDS = 2.0
"""The sweeper asks twice a second; a stage's lag does not matter at that resolution."""
ASK_SECONDS = 5.0
"""The longest wait for a broker's answer."""


class LagReader:
    """Lag of one consumer group, per topic. An unanswered question counts as lag: then nothing is driven early."""

    def __init__(self, config: Mapping[str, str], group: str, prefix: str) -> None:
        self._config = config
        self._group = group
        self._prefix = prefix
        # A consumer that joins nothing, not an AdminClient: librdkafka (2.16 too) aborts the process when a question
        # to a group's coordinator meets a broken connection (its issues 3663 and 4605, fix 5397 not yet merged).
        self._consumer: Consumer | None = None
        self._known: dict[str, tuple[float, int]] = {}

    async def lag_of(self, topic: str) -> int:
        """Records between the committed and the end offsets, all partitions; 1 where it cannot be known."""
        at, lag = self._known.get(topic, (0.0, 0))
        if time.monotonic() - at < CACHE_SECONDS:
            return lag
        lag = await asyncio.to_thread(self._ask, topic_name(topic, self._prefix))
        self._known[topic] = (time.monotonic(), lag)
        return lag

    def _ask(self, topic: str) -> int:
        try:
            return self._lag(topic)
        except Exception:  # noqa: BLE001 - whatever went wrong, the answer is "not known", which drives nothing
            return 1

    def _lag(self, topic: str) -> int:
        consumer = self._consumer = self._consumer or Consumer(
            {**self._config, "group.id": self._group, "enable.auto.commit": False, "log_level": 0}
        )
        described = consumer.list_topics(topic, ASK_SECONDS).topics[topic]
        lag = 0
        for place in consumer.committed(
            [TopicPartition(topic, number) for number in described.partitions], ASK_SECONDS
        ):
            _, end = consumer.get_watermark_offsets(place, ASK_SECONDS, cached=False)
            lag += max(0, end - max(0, place.offset))
        return lag
