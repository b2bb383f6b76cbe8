"""Kafka loses what workers rest on, offsets or whole topics: nothing is paid twice, nothing is lost (K1, K8, K9).

A group that lost its offsets reads everything anew; the ledger knows every step that was taken. A topic that was
deleted and made anew under running workers is noticed by its id: they end (exit code 73), whoever supervises them
starts them again, and they read the new topic from its first record on, because what they committed names the old one.
Records that went with a stage's topic are driven by the sweeper; requests that went with `payout_requests` unread are
lost to us, and their originators have them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it is exported

from ops.kafka import wait_until_served
from sandbox.servers.visa_stand_in import VisaStandIn
from schemas.topics import TOPICS, topic_name
from streams.bootstrap import EXIT_CODE_TOPIC_MADE_ANEW, EXIT_CODE_UNCONFIRMED
from streams.completeness import mark_group
from tests.faults.audited_pipeline import Audited, committed
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import PARTITIONS, Pipeline, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

ALL = range(PARTITIONS)
CALL_SECONDS = 2.0
"""Two workers with two calls each end two payouts a second: slower than the stages before on a slow machine, too."""


@pytest.fixture
def audited(own_visa: VisaStandIn, make_pipeline: MakePipeline) -> Iterator[Audited]:
    """A pipeline, judged by a stand-in of its own; its workers end with the test."""
    one = Audited(make_pipeline(own_visa=own_visa))
    yield one
    for worker in one.workers:
        worker.kill()


def admin_of(pipeline: Pipeline) -> AdminClient:
    return AdminClient({"bootstrap.servers": pipeline.bootstrap_servers, "log_level": 0})


def make_anew(pipeline: Pipeline, name: str) -> None:
    """Delete a topic and make one of the same name and form."""
    topic = topic_name(name, pipeline.prefix)
    admin = admin_of(pipeline)
    admin.delete_topics([topic])[topic].result(20)
    wanted = NewTopic(topic, num_partitions=PARTITIONS, replication_factor=1, config=TOPICS[name].broker_settings(1))
    admin.create_topics([wanted])[topic].result(20)
    wait_until_served(admin, [topic])


def ends(pipeline: Pipeline, topic: str) -> list[int]:
    """The end of each partition."""
    found = dict.fromkeys(ALL, 0)
    for record in pipeline.events(topic):
        found[record.partition] = max(found[record.partition], record.offset + 1)
    return list(found.values())


def wait_until_committed(one: Audited, topic: str) -> None:
    """K8: what is committed is the end of this very topic, below what was committed for the old one or not."""
    wanted = ends(one.pipeline, topic)
    _until_committed(one, topic, "payouts", wanted)


def wait_until_verified(one: Audited) -> None:
    """K9: every request of this very topic was looked up."""
    _until_committed(one, "payout_requests", mark_group("payouts"), ends(one.pipeline, "payout_requests"))


def _until_committed(one: Audited, topic: str, group: str, wanted: list[int]) -> None:
    def are_committed() -> bool:
        one.supervise()
        return committed(one.pipeline, topic, ALL, group) == wanted

    until(f"{group} committed {wanted} of {topic}", are_committed)


def test_a_groups_committed_offsets_are_deleted(audited: Audited) -> None:
    """K1, K9, P1, P2: with requests unread, and the marks of the completeness check lost as well."""
    pipeline = audited.pipeline
    groups = [f"{pipeline.prefix}payouts", mark_group(f"{pipeline.prefix}payouts")]
    audited.start("before-1", "before-2")
    payout_ids = audited.send(300)
    audited.until_paid(payout_ids)
    admin = admin_of(pipeline)
    with pytest.raises(KafkaException) as refused:
        admin.delete_consumer_groups(groups[:1])[groups[0]].result(20)
    assert refused.value.args[0].code() == KafkaError.NON_EMPTY_GROUP, "Kafka takes no running worker its offsets"

    payout_ids += audited.send(60)
    audited.stop()
    for group, answer in admin.delete_consumer_groups(groups).items():
        assert answer.result(20) is None, group
    assert committed(pipeline, "payout_requests", ALL) == [0] * PARTITIONS
    audited.start("after-1", "after-2")
    payout_ids += audited.send(60)
    audited.until_paid(payout_ids)
    for topic in ("payout_requests", "payout_cleared"):
        wait_until_committed(audited, topic)
    wait_until_verified(audited)
    audited.assert_clean(len(payout_ids))
    # A publish that stays unconfirmed may end a worker (K5); a group's lost offsets may not.
    assert set(audited.pipeline.exit_codes) <= {EXIT_CODE_UNCONFIRMED}


def test_the_topic_of_requests_is_made_anew_under_running_workers(audited: Audited) -> None:
    """K8, K9, P1, P2: shorter than the old one, so that the old offsets lie behind its end."""
    pipeline = audited.pipeline
    audited.start("first", "second")
    first = audited.send(90, ALL)
    audited.until_paid(first)
    wait_until_committed(audited, "payout_requests")
    wait_until_verified(audited)

    audited.forget_topic()
    make_anew(pipeline, "payout_requests")
    second = audited.send(30, ALL)
    audited.until_paid(second)
    wait_until_committed(audited, "payout_requests")
    wait_until_verified(audited)
    codes = audited.pipeline.exit_codes
    assert EXIT_CODE_TOPIC_MADE_ANEW in codes, codes
    assert set(codes) <= {EXIT_CODE_TOPIC_MADE_ANEW, EXIT_CODE_UNCONFIRMED}, codes  # the second by K5, at any time
    audited.assert_clean(len(first + second))


def test_what_was_committed_for_the_old_topic_skips_nothing_of_the_new_one(audited: Audited) -> None:
    """K8, K9, P1, P2: a commit that comes late, as of a frozen worker, for a topic that is longer than the old one."""
    pipeline = audited.pipeline
    audited.start("before")
    first = audited.send(30, ALL)
    audited.until_paid(first)
    wait_until_committed(audited, "payout_requests")
    audited.stop()
    late = audited.pipeline.committed_places("payout_requests", ALL)
    assert [place.offset for place in late] == [10] * PARTITIONS
    audited.forget_topic()
    make_anew(pipeline, "payout_requests")
    second = audited.send(60, ALL)
    audited.acknowledged()
    pipeline.commit(late)
    audited.start("after")
    audited.until_paid(second)
    wait_until_committed(audited, "payout_requests")
    wait_until_verified(audited)
    audited.assert_clean(len(first + second))
    assert "never handled" not in audited.workers[0].log(), "they were read, not found missing a minute later"


def test_the_topic_of_a_stage_is_made_anew_with_payouts_in_it(audited: Audited) -> None:
    """K4, K8, P1, P2: what was on its way to `submit` is driven by the sweeper."""
    pipeline = audited.pipeline
    audited.start("first", "second", PAYOUTS_IN_FLIGHT_MAX="2")
    pipeline.visa_faults({"operation": "push", "fault": "slow", "seconds": CALL_SECONDS})
    payout_ids = audited.send(80)
    waiting = "SELECT 1 FROM payouts WHERE state = 'CLEARED' AND announced_version >= announce_version"
    until("payouts wait in the topic", lambda: len(pipeline.fetch(waiting)) > 20)
    make_anew(pipeline, "payout_cleared")
    lost = pipeline.fetch("SELECT payout_id FROM payouts WHERE state = 'CLEARED'")
    assert len(lost) > 10  # two a second have left meanwhile
    pipeline.visa_faults()
    payout_ids += audited.send(20)
    audited.until_paid(payout_ids)
    wait_until_committed(audited, "payout_cleared")
    audited.assert_clean(len(payout_ids))
