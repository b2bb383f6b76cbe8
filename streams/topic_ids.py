"""Which topics these are: one that was made anew has the name of the old one and none of its records (rules K8, K9).

    ids = TopicIds(confluent_config(settings), ["payout_requests"])
    await ids.learn()                         before anything is read
    await ids.watch_forever(end_the_worker)   called with the name of a topic that is another one now

Kafka gives every topic an id of its own (2.8 and newer), but offsets are committed by name: what was committed for the
old topic would skip as many records of the new one. So each of our commits carries the id of the topic that it is for,
and an offset of another topic counts for nothing (`is_of`): reading begins with the first record, which the ledger
makes safe. An offset without an id (an operator's, an older version's) is believed.

Brokers delete a topic's committed offsets with it, but a worker that has not noticed may commit again. It notices
within WATCH_EVERY_SECONDS and ends; nothing rests on that time.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from streams.gate import pauses
from streams.holes import Unreadable

log = logging.getLogger(__name__)

WATCH_EVERY_SECONDS: Final = 1.0
"""One small question to one broker; until it is answered, work for the new topic is done that is done again later."""
ASK_SECONDS: Final = 5.0
"""The longest wait for an answer."""
NOTE: Final = "topic-id="
"""Before the id, in the text that Kafka keeps beside a committed offset."""
NO_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"
"""All zeros: brokers that give no ids."""


def note_of(topic_id: str) -> str:
    """The text to commit beside an offset of this topic; empty for an unknown one."""
    return f"{NOTE}{topic_id}" if topic_id else ""


def is_of(note: str | None, topic_id: str) -> bool:
    """Whether an offset with this text was committed for this very topic, or may have been.

    What a command commits carries a terminator behind the text: confluent-kafka counts it as a part, and only aiokafka,
    by which workers read it, shows it.
    """
    told = (note or "").rstrip("\0")
    return not topic_id or not told.startswith(NOTE) or told == note_of(topic_id)


class TopicIds:
    """The ids of some topics, as they were when this worker began to read, and whether they still are."""

    def __init__(self, config: Mapping[str, Any], topics: Iterable[str]) -> None:
        """`topics` are names on the cluster."""
        self._config = {**config, "error_cb": lambda _: None, "log_level": 0}
        self._topics = sorted(topics)
        self._known: dict[str, str] = {}
        # Only topics are asked for: it is the questions to a group's coordinator that librdkafka may abort at.
        self._admin: AdminClient | None = None

    def of(self, topic: str) -> str:
        """The id under which this worker reads the topic; empty while it is not known."""
        return self._known.get(topic, "")

    async def learn(self) -> None:
        """Ask until the brokers answer: without an answer nothing may be read."""
        for pause_seconds in pauses():
            try:
                self._known |= await self._ask()
            except Unreadable as error:
                log.warning("topics not known, nothing is read now", extra={"why": str(error)})
                await asyncio.sleep(pause_seconds)
            else:
                return

    async def others(self) -> list[str]:
        """The topics that are not those any more that this worker began to read. Raises Unreadable."""
        found = await self._ask()
        made_anew = sorted(topic for topic, topic_id in found.items() if self.of(topic) not in ("", topic_id))
        self._known = found | self._known
        return made_anew

    async def watch_forever(self, on_other: Callable[[str], None]) -> None:
        """Look again and again; a topic that is not there, or a broker that does not answer, is no other topic."""
        while True:
            await asyncio.sleep(WATCH_EVERY_SECONDS)
            try:
                for topic in await self.others():
                    on_other(topic)
            except Unreadable as error:
                log.info("topics not looked at", extra={"why": str(error)})

    async def _ask(self) -> dict[str, str]:
        """The ids of those topics that exist. Raises Unreadable."""
        return await asyncio.to_thread(self._described)

    def _described(self) -> dict[str, str]:
        found: dict[str, str] = {}
        try:
            admin = self._admin = self._admin or AdminClient(self._config)
            asked = admin.describe_topics(TopicCollection(self._topics), request_timeout=ASK_SECONDS)
        except KafkaException as error:
            raise Unreadable(_reason(error)) from None
        for topic, answer in asked.items():
            try:
                topic_id = str(answer.result(ASK_SECONDS * 2).topic_id)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise Unreadable(_reason(error)) from None
            except TimeoutError:
                raise Unreadable("no answer in time") from None
            else:
                if topic_id != NO_ID:
                    found[topic] = topic_id
        return found


def _reason(error: KafkaException) -> str:
    cause = error.args[0] if error.args else None
    return str(cause.name()) if isinstance(cause, KafkaError) else type(error).__name__
