"""docker-compose.kafka.yml: valid, on loopback only, and with the topics of the one table."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.main import get_command

from helm.generate import CHART
from ops.lag import EXPORT_PORT
from ops.main import app
from sandbox.servers import jars
from sandbox.servers.postgres import POSTGRES_MAJOR
from schemas.topics import TOPICS
from streams.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
COMPOSE_PATH = ROOT / "docker-compose.kafka.yml"
TOPICS_TOOL = "/opt/kafka/bin/kafka-topics.sh"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE_PATH.read_text(encoding="utf-8"))
    return document


def test_the_compose_specification_accepts_the_file(compose: dict[str, Any]) -> None:
    """The schema that `check-jsonschema --builtin-schema vendor.compose-spec` uses, from the same package."""
    package = importlib.util.find_spec("check_jsonschema")
    assert package is not None, "check-jsonschema is missing: install requirements/test.txt"
    assert package.origin is not None
    schema_path = Path(package.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(schema_path.read_text(encoding="utf-8"))
    jsonschema.validators.validator_for(schema)(schema).validate(compose)


def test_every_port_is_published_on_loopback_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 10
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len(set(ports)) == len(ports)


def test_only_the_servers_start_unless_more_is_asked_for(compose: dict[str, Any]) -> None:
    """`make up` is what `payouts dev up` starts; the rest comes by profiles."""
    profiles: dict[str, set[str]] = {}
    for name, service in compose["services"].items():
        for profile in service.get("profiles", ["default"]):
            profiles.setdefault(profile, set()).add(name)
    assert profiles == {
        "default": {"kafka", "kafka-init", "registry", "postgres"},
        "ui": {"ui"},
        "observability": {"lag-exporter", "prometheus", "grafana"},
        "chaos": {"toxiproxy"},
    }


def test_no_image_is_whatever_is_newest(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert ("image" in service) != ("build" in service), name
        if "image" in service:
            assert re.search(r":v?\d+(\.\d+)*$", service["image"]), name


def test_every_client_is_told_an_address_that_it_can_reach(compose: dict[str, Any]) -> None:
    """Each listener is advertised, has a protocol, and what is published leads to the one that names this machine."""
    kafka = compose["services"]["kafka"]
    variables = kafka["environment"]
    listeners = dict(entry.split("://:") for entry in variables["KAFKA_LISTENERS"].split(","))
    advertised = dict(entry.split("://") for entry in variables["KAFKA_ADVERTISED_LISTENERS"].split(","))
    protocols = dict(entry.split(":") for entry in variables["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert set(protocols) == set(listeners) == {"CONTROLLER", *advertised}
    assert advertised["PLAINTEXT"] == f"kafka:{listeners['PLAINTEXT']}"
    (published,) = kafka["ports"]
    assert published == f"{advertised['PLAINTEXT_HOST']}:{listeners['PLAINTEXT_HOST']}"
    assert (
        f"{advertised['PLAINTEXT_CHAOS']}:{listeners['PLAINTEXT_CHAOS']}" in compose["services"]["toxiproxy"]["ports"]
    )
    for service in compose["services"].values():
        for value in (service.get("environment") or {}).values():
            for port in re.findall(r"\bkafka:(\d+)\b", str(value)):
                assert port in listeners.values()


def test_the_proxies_stand_before_the_servers(compose: dict[str, Any]) -> None:
    proxies = {proxy["name"]: proxy for proxy in json.loads(compose["configs"]["toxiproxy"]["content"])}
    assert {name: proxy["upstream"] for name, proxy in proxies.items()} == {
        "kafka": "kafka:39092",
        "postgres": "postgres:5432",
    }
    published = {port.rsplit(":", 1)[1] for port in compose["services"]["toxiproxy"]["ports"]}
    assert {proxy["listen"].rsplit(":", 1)[1] for proxy in proxies.values()} < published


def test_prometheus_and_grafana_use_what_the_chart_ships(compose: dict[str, Any]) -> None:
    """The same rules and dashboards, a scrape of worker and exporter, and a data source under the name they use."""
    mounts = {
        volume.split(":")[0]
        for name in ("prometheus", "grafana")
        for volume in compose["services"][name]["volumes"]
        if volume.startswith("./")
    }
    assert mounts == {f"./{(CHART / 'files' / kind).relative_to(ROOT)}" for kind in ("rules", "dashboards")}
    prometheus = yaml.safe_load(compose["configs"]["prometheus"]["content"])
    assert prometheus["rule_files"] == ["/etc/prometheus/rules/*.yaml"]
    targets = {t for job in prometheus["scrape_configs"] for config in job["static_configs"] for t in config["targets"]}
    http_port = Settings.model_fields["payouts_http_port"].default
    assert targets == {f"host.docker.internal:{http_port}", f"lag-exporter:{EXPORT_PORT}"}
    provided = yaml.safe_load(compose["configs"]["grafana-datasource"]["content"])["datasources"]
    assert [source["uid"] for source in provided] == ["prometheus"]
    provider = yaml.safe_load(compose["configs"]["grafana-dashboards"]["content"])["providers"][0]
    assert any(v.endswith(f":{provider['options']['path']}:ro") for v in compose["services"]["grafana"]["volumes"])


def test_the_exporter_is_our_image_with_a_command_that_it_has(compose: dict[str, Any]) -> None:
    exporter = compose["services"]["lag-exporter"]
    assert (ROOT / exporter["build"]["context"] / "Dockerfile").is_file()
    assert set(exporter["environment"]) <= {name.upper() for name in Settings.model_fields}
    command: Any = get_command(app)
    for word in exporter["command"][:2]:
        command = command.commands[word]
    given = dict(zip(exporter["command"][2::2], exporter["command"][3::2], strict=True))
    assert set(given) <= {option for parameter in command.params for option in parameter.opts}
    assert f":{given['--port']}" in exporter["ports"][0]


def test_every_config_is_used_and_there(compose: dict[str, Any]) -> None:
    used = {config["source"] for service in compose["services"].values() for config in service.get("configs", ())}
    assert used == set(compose["configs"])


def test_the_versions_are_those_of_the_launcher(compose: dict[str, Any]) -> None:
    images = {name: service.get("image") for name, service in compose["services"].items()}
    assert images["kafka"] == images["kafka-init"] == f"apache/kafka:{jars.KAFKA.version}"
    assert images["postgres"] == f"postgres:{POSTGRES_MAJOR}"


def test_everything_that_is_waited_for_has_a_health_check(compose: dict[str, Any]) -> None:
    services = compose["services"]
    awaited = {name for service in services.values() for name in service.get("depends_on", {})}
    assert awaited == {"kafka", "kafka-init", "registry", "postgres", "lag-exporter", "prometheus"}
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            ends = wait["condition"] == "service_completed_successfully"
            assert ends == (services[name]["restart"] == "no")
            assert ends or "healthcheck" in services[name], name


def test_data_is_on_named_volumes(compose: dict[str, Any]) -> None:
    used = {volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", ())}
    named = {name for name in used if not name.startswith("./")}
    assert named == set(compose["volumes"]) == {"kafka-data", "postgres-data", "prometheus-data"}


def test_the_password_says_that_it_is_for_local_use(compose: dict[str, Any]) -> None:
    assert compose["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"] == (
        "${POSTGRES_PASSWORD:-local-use-only}"
    )
    assert compose["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == (
        "${GRAFANA_PASSWORD:-local-use-only}"
    )
    assert "FOR LOCAL USE ONLY" in COMPOSE_PATH.read_text(encoding="utf-8")


def test_the_topics_are_those_of_the_table(compose: dict[str, Any], tmp_path: Path) -> None:
    """Runs the real script with a tool that writes its arguments down (design.md 3: one table of topics)."""
    init = compose["services"]["kafka-init"]
    tool, calls_path = tmp_path / "kafka-topics.sh", tmp_path / "calls"
    tool.write_text(f'#!/bin/bash\necho "$@" >> {calls_path}\n', encoding="utf-8")
    tool.chmod(0o755)
    script = init["command"][0].replace("$$", "$").replace(TOPICS_TOOL, str(tool))
    subprocess.run([*init["entrypoint"], script], check=True, timeout=30)

    created = [_arguments(line) for line in calls_path.read_text(encoding="utf-8").splitlines()]
    assert created == [
        {
            "bootstrap-server": "kafka:19092",
            "topic": topic.name,
            "partitions": str(topic.partitions),
            "replication-factor": "1",
            **topic.broker_settings(replication_factor=1),
        }
        for topic in TOPICS.values()
    ]


def _arguments(line: str) -> dict[str, str]:
    arguments = dict(re.findall(r"--((?!config)[a-z-]+) ([^-]\S*)", line))
    settings = dict(re.findall(r"--config ([a-z.]+)=(\S+)", line))
    return {**arguments, **settings}
