"""A broker's second listener, by which clients meet only proxies, and who coordinates a group."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.servers.kafka import KafkaCluster, java_string_hash, node_properties

PORTS = {1: (21001, 22001), 2: (21002, 22002), 3: (21003, 22003)}


def settings(proxied: tuple[int, int] | None) -> dict[str, str]:
    return dict(line.split("=", 1) for line in node_properties(2, PORTS, Path("data"), proxied).splitlines())


def test_the_proxied_listener_is_bound_in_one_place_and_advertised_in_another() -> None:
    """P8: clients that begin at a proxy are sent to proxies; brokers and controllers stay among themselves."""
    found = settings((23002, 24002))
    assert found["listeners"].split(",") == [
        "CONTROLLER://127.0.0.1:22002",
        "PLAINTEXT://127.0.0.1:21002",
        "PROXIED://127.0.0.1:23002",
    ]
    assert found["advertised.listeners"].split(",") == ["PLAINTEXT://127.0.0.1:21002", "PROXIED://127.0.0.1:24002"]
    assert found["inter.broker.listener.name"] == "PLAINTEXT"
    assert "24002" not in found["controller.quorum.voters"] + found["listeners"]


def test_a_cluster_without_proxies_has_no_such_listener() -> None:
    """Tests, demo and `payouts dev` run as before."""
    assert "PROXIED://" not in settings(None)["listeners"] + settings(None)["advertised.listeners"]


def test_three_brokers_lose_nothing_that_was_acknowledged() -> None:
    """P1 under one dead broker: two copies before an acknowledgement, never a leader without them, also of offsets."""
    found = settings(None)
    assert (found["default.replication.factor"], found["min.insync.replicas"]) == ("3", "2")
    assert found["offsets.topic.replication.factor"] == "3"
    assert found["unclean.leader.election.enable"] == "false"


def test_every_broker_has_a_proxy_or_none() -> None:
    """A broker that was forgotten would be a way around the faults."""
    with pytest.raises(ValueError, match="every broker"):
        KafkaCluster(brokers=3, advertised_proxy_ports={1: 24001, 2: 24002})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("Aa", 2112),
        ("BB", 2112),
        ("hello", 99162322),
        ("polygenelubricants", 0),  # the smallest integer, which has no positive counterpart
        ("\N{GRINNING FACE}", 1772899),  # two UTF-16 units, as Java counts
    ],
)
def test_groups_are_placed_by_javas_hash(text: str, expected: int) -> None:
    """The group's coordinator is found, and so lost, by the same arithmetic as Kafka's."""
    assert java_string_hash(text) == expected


def test_a_negative_hash_counts_without_its_sign() -> None:
    """Half of all names hash below zero in Java."""
    assert java_string_hash("payout_requests") >= 0
