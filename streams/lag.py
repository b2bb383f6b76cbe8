"""How many records a stage has not taken yet, asked of Kafka from outside the consumer; cached for a moment."""

import asyncio
import time
from collections.abc import Mapping

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

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
        self._admin: AdminClient | None = None
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
            admin = self._admin = self._admin or AdminClient(dict(self._config))
            described = admin.list_topics(topic, timeout=ASK_SECONDS).topics[topic]
            partitions = [TopicPartition(topic, number) for number in described.partitions]
            latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
            ends = admin.list_offsets(dict.fromkeys(partitions, latest), request_timeout=ASK_SECONDS)
            group = ConsumerGroupTopicPartitions(self._group, partitions)
            offsets = admin.list_consumer_group_offsets([group], request_timeout=ASK_SECONDS)[self._group].result()
            committed = {item.partition: item.offset for item in offsets.topic_partitions}
            return sum(
                max(0, future.result().offset - max(0, committed.get(tp.partition, 0))) for tp, future in ends.items()
            )
        except Exception:  # noqa: BLE001 - whatever went wrong, the answer is "not known", which drives nothing
            return 1
