"""The chart says what the code's tables say: settings, topics, agents, groups; and its books name what it makes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from helm.generate import CHART, SCHEMA_FILE, TOPICS_FILE, given_settings, schema_file, topics_file
from processors.payout.schedule import Schedule
from schemas.topics import TOPICS, topic_name
from streams.bootstrap import AGENT_TOPICS
from streams.settings import CONSUMER_GROUP, Settings
from tests.chart.chart_tools import Rendered, environment
from tests.docs.test_documents import COMMAND_VARIABLES

VARIABLE = re.compile(r"\b(?:PAYOUTS|KAFKA|VISA|DATABASE|SCHEMA_REGISTRY|REQUEST_ID|JWKS|RETRY|AUDIT)_[A-Z0-9_]+\b")

LEFT_OUT = {
    "PAYOUTS_HTTP_PORT_FILE": "the port is fixed",
    "PAYOUTS_WORKER_NAME": "the host's name is the pod's",
    "PAYOUTS_TRACING_CA_PATH": "a collector under the system's authorities needs none",
}


def test_what_is_generated_is_what_the_tables_say() -> None:
    """Whoever changes a topic or a setting runs `make chart-files`."""
    assert TOPICS_FILE.read_text(encoding="utf-8") == topics_file()
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_file()


def test_every_variable_is_a_setting(rendered: Rendered) -> None:
    """A variable that nobody reads is a setting that silently does nothing."""
    known = {name.upper() for name in Settings.model_fields} | COMMAND_VARIABLES
    for owner, container in rendered.containers():
        assert set(environment(container)) <= known, owner["metadata"]["name"]


def test_every_variable_in_a_file_of_the_chart_is_a_setting() -> None:
    """Templates under conditions that no values file meets included."""
    known = {name.upper() for name in Settings.model_fields} | COMMAND_VARIABLES
    for file in (*CHART.rglob("*.yaml"), *CHART.rglob("*.tpl"), *CHART.rglob("*.md"), *CHART.rglob("*.txt")):
        assert set(VARIABLE.findall(file.read_text(encoding="utf-8"))) <= known, file


def test_every_setting_has_its_place() -> None:
    """In values, in the file of secrets, or where the chart mounts something: none is left out without a reason."""
    helpers = (CHART / "templates/_helpers.tpl").read_text(encoding="utf-8")
    names = {name.upper() for name in Settings.model_fields}
    secret = {name.upper() for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)}
    placed = set(given_settings()) | secret | set(VARIABLE.findall(helpers))
    assert names - placed - set(LEFT_OUT) == set()
    assert not placed & set(LEFT_OUT)


def test_the_lease_that_the_templates_assume_is_the_profiles() -> None:
    problems = (CHART / "templates/_problems.tpl").read_text(encoding="utf-8")
    assert f"default {Schedule.production().lease_seconds:g} $settings.PAYOUTS_LEASE_SECONDS" in problems


def test_strimzi_makes_the_topics_of_the_table(chart_of: Mapping[str, Rendered]) -> None:
    """Names, partitions, replicas and settings, under the prefix of the settings."""
    rendered = chart_of["strimzi-keda"]
    prefix = rendered.values["settings"]["PAYOUTS_TOPIC_PREFIX"]
    made = {topic["spec"]["topicName"]: topic["spec"] for topic in rendered.of("KafkaTopic")}
    assert made == {
        topic_name(topic.name, prefix): {
            "topicName": topic_name(topic.name, prefix),
            "partitions": topic.partitions,
            "replicas": topic.replication_factor,
            "config": topic.broker_settings(),
        }
        for topic in TOPICS.values()
    }
    for topic in rendered.of("KafkaTopic"):
        assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", topic["metadata"]["name"])
        assert topic["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_workers_may_do_what_they_do_and_no_more(chart_of: Mapping[str, Rendered]) -> None:
    """They never write what others produce, and read what their agents, the follower (K9) and the guard (L11) read."""
    users = {user["metadata"]["name"].rsplit("-", 1)[1]: user for user in chart_of["strimzi-keda"].of("KafkaUser")}
    prefix = chart_of["strimzi-keda"].values["settings"]["PAYOUTS_TOPIC_PREFIX"]
    read = {topic for topics in AGENT_TOPICS.values() for topic in topics} | {"payout_audit"}
    read |= {topic.name for topic in TOPICS.values() if topic.inbound}
    rights = {user: _rights(users[user]) for user in ("worker", "lag")}
    for topic in TOPICS.values():
        name = ("topic", prefix + topic.name)
        wanted = {"Describe", "DescribeConfigs"}
        wanted |= {"Read"} if topic.name in read else set()
        wanted |= set() if topic.inbound else {"Write"}
        assert rights["worker"][name] == wanted
        assert "Write" not in rights["lag"][name]
    everything = chart_of["everything"]
    (reader,) = (user for user in everything.of("KafkaUser") if user["metadata"]["name"].endswith("-reconcile"))
    for (kind, name), operations in _rights(reader).items():
        assert not operations & {"Write", "Create", "Delete", "Alter"}, name
        assert ("Read" in operations) == (kind == "topic" and not name.endswith("payout_dead_letters")), name
    group = ("group", prefix + CONSUMER_GROUP)
    assert (rights["worker"][group], rights["lag"][group]) == ({"Read", "Describe"}, {"Describe"})
    assert len(rights["worker"]) == len(TOPICS) + 1


def _rights(user: dict[str, object]) -> dict[tuple[str, str], set[str]]:
    rules = user["spec"]["authorization"]["acls"]  # type: ignore[index]
    return {(rule["resource"]["type"], rule["resource"]["name"]): set(rule["operations"]) for rule in rules}


def test_keda_looks_at_the_lag_of_the_topics_that_the_agents_read(chart_of: Mapping[str, Rendered]) -> None:
    """One trigger a topic; all strings; from the first record on; evenly, and never more workers than partitions."""
    for name in ("strimzi-keda", "external-secrets", "everything"):
        rendered = chart_of[name]
        prefix = rendered.values["settings"].get("PAYOUTS_TOPIC_PREFIX", "")
        scaled = {found["spec"]["scaleTargetRef"]["name"]: found["spec"] for found in rendered.of("ScaledObject")}
        assert set(scaled) == {worker["metadata"]["name"] for worker in rendered.workers()}
        for worker in rendered.workers():
            assert "replicas" not in worker["spec"], "KEDA owns the number"
            (container,) = worker["spec"]["template"]["spec"]["containers"]
            read = {topic for agent in container["args"][2].split(",") for topic in AGENT_TOPICS[agent]}
            spec = scaled[worker["metadata"]["name"]]
            assert {trigger["metadata"]["topic"] for trigger in spec["triggers"]} == {prefix + topic for topic in read}
            assert 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]
            assert spec["maxReplicaCount"] <= min(TOPICS[topic].partitions for topic in read)
            for trigger in spec["triggers"]:
                metadata = trigger["metadata"]
                assert all(isinstance(value, str) for value in metadata.values())
                assert metadata["consumerGroup"] == prefix + CONSUMER_GROUP
                assert metadata["offsetResetPolicy"] == "earliest"
                assert metadata["ensureEvenDistributionOfPartitions"] == "true"
                assert metadata["bootstrapServers"] == environment(container)["KAFKA_BOOTSTRAP_SERVERS"]
                assert metadata["tls"] == "enable"
                assert (
                    trigger["authenticationRef"]["name"] == rendered.of("TriggerAuthentication")[0]["metadata"]["name"]
                )
    assert (
        chart_of["external-secrets"].of("ScaledObject")[0]["spec"]["triggers"][0]["metadata"]["sasl"] == "scram_sha512"
    )


def test_the_versions_are_one() -> None:
    """Chart, image and distribution."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = (CHART.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{chart["appVersion"]}"' in project
    assert f"payout-streams:{chart['appVersion']}" in (CHART.parents[1] / "Dockerfile").read_text(encoding="utf-8")
