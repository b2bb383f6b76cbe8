"""The one table of topics is the design's, and what brokers and clients are told follows from it."""

from __future__ import annotations

import pytest

from schemas import catalog
from schemas.topics import TOPIC_OF_SCHEMA, TOPICS, subject_of, topic_for, topic_name, topic_of

DAY = 86_400_000

# Name, record and retention in days, as the design's table has them.
DESIGN = {
    "payout_requests": ("PayoutRequest", 30),
    "payout_validated": ("ValidatedPayout", 30),
    "payout_cleared": ("ClearedPayout", 30),
    "payout_retry": ("PayoutRetry", 30),
    "payout_results": ("PayoutResult", 90),
    "payout_failed_requires_compensation": ("PayoutFailedRequiresCompensation", 90),
    "payout_compensation_confirmations": ("CompensationConfirmation", 90),
    "payout_compensation_results": ("CompensationResult", 90),
    "payout_reviews": ("ReviewCase", 365),
    "payout_review_decisions": ("ReviewDecision", 365),
    "payout_refusals": ("RequestRefused", 90),
    "payout_dead_letters": (None, 30),
    "payout_audit": ("AuditRecord", -1),
}


def test_names_records_and_retention_are_the_designs() -> None:
    ours = {name: (topic.schema, topic.retention_ms) for name, topic in TOPICS.items()}
    assert ours == {name: (schema, days * DAY if days > 0 else -1) for name, (schema, days) in DESIGN.items()}


def test_partitions_replicas_and_clean_up() -> None:
    for name, topic in TOPICS.items():
        assert topic.name == name
        assert topic.partitions == (1 if name == "payout_audit" else 12)
        assert (topic.replication_factor, topic.min_insync_replicas) == (3, 2)
        assert topic.cleanup_policy == "delete"
        assert topic.description


def test_only_the_requests_carry_the_brokers_clock() -> None:
    """L11: the loss window of a restore is judged by a clock that no producer sets."""
    stamped = [name for name, topic in TOPICS.items() if topic.timestamp_type == "LogAppendTime"]
    assert stamped == ["payout_requests"]


def test_compression_is_one_that_every_client_has() -> None:
    assert {topic.compression for topic in TOPICS.values()} <= {"gzip", "producer", "uncompressed"}


def test_a_record_over_our_limit_reaches_the_topic() -> None:
    """K6: it must arrive to be accounted for as a dead letter."""
    assert all(topic.max_message_bytes >= 1_048_576 for topic in TOPICS.values())


def test_the_inbound_topics_are_those_of_the_completeness_reader() -> None:
    """K9."""
    inbound = {name for name, topic in TOPICS.items() if topic.inbound}
    assert inbound == {"payout_requests", "payout_review_decisions", "payout_compensation_confirmations"}


def test_what_is_internal_is_no_strangers_to_write() -> None:
    """Left out of the published contract; what others produce never is."""
    internal = {name for name, topic in TOPICS.items() if topic.internal}
    assert internal == {"payout_validated", "payout_cleared", "payout_retry"}
    assert not any(topic.internal and topic.inbound for topic in TOPICS.values())


def test_keys() -> None:
    other = {name: topic.key for name, topic in TOPICS.items() if topic.key != "payout_id"}
    assert other == {"payout_dead_letters": "source_position", "payout_audit": "none"}


def test_every_record_has_one_topic_and_every_event_its_own_type() -> None:
    assert set(TOPIC_OF_SCHEMA) == set(catalog.RECORDS)
    types = [topic.event_type for topic in TOPICS.values()]
    assert len(set(types)) == len(types)
    assert TOPICS["payout_results"].event_type == "io.payoutstreams.payout.result.v1"


def test_broker_settings_use_kafkas_names_and_fit_the_cluster() -> None:
    settings = TOPICS["payout_requests"].broker_settings()
    assert settings == {
        "cleanup.policy": "delete",
        "compression.type": "producer",
        "max.message.bytes": "1048588",
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2",
        "retention.ms": str(30 * DAY),
    }
    # One broker with two in-sync replicas demanded accepts nothing.
    assert TOPICS["payout_requests"].broker_settings(1)["min.insync.replicas"] == "1"
    assert TOPICS["payout_audit"].broker_settings()["retention.ms"] == "-1"


def test_a_prefix_gives_names_of_ones_own() -> None:
    assert topic_name("payout_results") == "payout_results"
    assert topic_name("payout_results", "demo-1.") == "demo-1.payout_results"
    assert topic_for("PayoutResult", "demo-1.") == "demo-1.payout_results"
    assert topic_of("demo-1.payout_results", "demo-1.") is TOPICS["payout_results"]
    assert subject_of("demo-1.payout_results") == "demo-1.payout_results-value"
    with pytest.raises(KeyError):
        topic_name("payouts")
    with pytest.raises(KeyError):
        topic_of("payout_results", "demo-1.")
    for prefix in ("a b", "a/b", "x" * 201, "é"):
        with pytest.raises(ValueError, match="prefix"):
            topic_name("payout_results", prefix)
