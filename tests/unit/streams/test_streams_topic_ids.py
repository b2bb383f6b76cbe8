"""K8: a topic that was deleted and made anew has the old one's name and none of its records."""

import asyncio
from collections.abc import Mapping

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams import topic_ids
from streams.holes import Unreadable
from streams.topic_ids import NO_ID, TopicIds, is_of, note_of
from tests.unit.streams.streams_world import until

OLD, NEW = "jRst25GrSZyErHUWq9EZ8A", "njqGhXlSRWm96r1XssqEQg"


class Scripted(TopicIds):
    """Brokers whose answers a test gives, one a question; the last one stays."""

    def __init__(self, *answers: Mapping[str, str] | Exception) -> None:
        super().__init__({}, ["requests", "cleared"])
        self.answers = list(answers)
        self.asked = 0

    def _described(self) -> dict[str, str]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)


@pytest.mark.parametrize(
    ("note", "topic_id", "counts"),
    [
        (note_of(OLD), OLD, True),
        (note_of(OLD), NEW, False),
        (note_of(OLD), "", True),
        ("", NEW, True),
        (None, NEW, True),
        ("moved by maria", NEW, True),
    ],
)
def test_an_offset_counts_unless_it_names_another_topic(note: str | None, topic_id: str, counts: bool) -> None:
    """K8: an operator's offset, or an older version's, is believed; so is any where brokers give no ids."""
    assert is_of(note, topic_id) is counts


def test_without_an_id_nothing_is_noted() -> None:
    """K8: an offset that names no topic is believed later, in place of one that names none truly."""
    assert note_of("") == ""


async def test_a_topic_made_anew_is_another_one_and_stays_so() -> None:
    """K8: whoever reads it goes on believing in the old one until it ends."""
    ids = Scripted({"requests": OLD, "cleared": "c"}, {"cleared": "c"}, {"requests": NEW, "cleared": "c"})
    await ids.learn()
    assert await ids.others() == [], "a topic that is not there is no other one"
    for _ in range(2):
        assert await ids.others() == ["requests"]
    assert (ids.of("requests"), ids.of("unheard of")) == (OLD, "")


async def test_a_topic_that_comes_later_is_known_from_then_on() -> None:
    """K8: it was not read under another id."""
    ids = Scripted({}, {"requests": OLD}, {"requests": NEW})
    await ids.learn()
    assert await ids.others() == []
    assert await ids.others() == ["requests"]


async def test_nothing_is_read_before_the_brokers_have_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5, K8: they are asked until they do."""
    monkeypatch.setattr(topic_ids, "pauses", lambda: iter([0.0] * 10))
    ids = Scripted(Unreadable("no broker"), Unreadable("no broker"), {"requests": OLD})
    await ids.learn()
    assert (ids.asked, ids.of("requests")) == (3, OLD)


async def test_watching_survives_brokers_that_are_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5, K8: an answer that does not come says nothing; the next one does."""
    monkeypatch.setattr(topic_ids, "WATCH_EVERY_SECONDS", 0.0)
    ids = Scripted({"requests": OLD}, Unreadable("no broker"), {"requests": NEW})
    await ids.learn()
    told: list[str] = []
    watching = asyncio.create_task(ids.watch_forever(told.append))
    await until(lambda: bool(told))
    watching.cancel()
    assert told[0] == "requests"


class Answer:
    """What confluent-kafka gives for one topic."""

    def __init__(self, found: str | KafkaError | TimeoutError) -> None:
        self.found = found

    def result(self, seconds: float) -> "Answer":
        assert seconds > 0
        if isinstance(self.found, TimeoutError):
            raise self.found
        if isinstance(self.found, KafkaError):
            raise KafkaException(self.found)
        return self

    @property
    def topic_id(self) -> str:
        return str(self.found)


class Admin:
    """Answers as brokers do."""

    def __init__(self, **answers: str | KafkaError | TimeoutError) -> None:
        self.answers = answers

    def describe_topics(self, _: object, request_timeout: float) -> dict[str, Answer]:
        assert request_timeout > 0
        return {topic: Answer(found) for topic, found in self.answers.items()}


async def test_what_brokers_say_of_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    """K8: a topic that is not there has no id, nor has any where brokers give none."""
    missing = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    monkeypatch.setattr(topic_ids, "AdminClient", lambda _: Admin(requests=OLD, cleared=missing, retry=NO_ID))
    ids = TopicIds({}, ["requests", "cleared", "retry"])
    await ids.learn()
    assert [ids.of(topic) for topic in ("requests", "cleared", "retry")] == [OLD, "", ""]


@pytest.mark.parametrize("away", [KafkaError(KafkaError._TIMED_OUT), TimeoutError()])
async def test_an_answer_that_does_not_come_is_none(
    monkeypatch: pytest.MonkeyPatch, away: KafkaError | TimeoutError
) -> None:
    """K5: not known is neither gone nor another one."""
    monkeypatch.setattr(topic_ids, "AdminClient", lambda _: Admin(requests=away))
    with pytest.raises(Unreadable):
        await TopicIds({}, ["requests"]).others()
