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

from sandbox.servers import jars
from sandbox.servers.postgres import POSTGRES_MAJOR
from schemas.topics import TOPICS

COMPOSE_PATH = Path(__file__).resolve().parents[3] / "docker-compose.kafka.yml"
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
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_versions_are_those_of_the_launcher(compose: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in compose["services"].items()}
    assert images["kafka"] == images["kafka-init"] == f"apache/kafka:{jars.KAFKA.version}"
    assert images["postgres"] == f"postgres:{POSTGRES_MAJOR}"


def test_everything_that_is_waited_for_has_a_health_check(compose: dict[str, Any]) -> None:
    services = compose["services"]
    awaited = {name for service in services.values() for name in service.get("depends_on", {})}
    assert awaited == {"kafka"}
    assert all("healthcheck" in services[name] for name in ("kafka", "registry", "postgres"))


def test_data_is_on_named_volumes(compose: dict[str, Any]) -> None:
    used = {volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", ())}
    assert used == set(compose["volumes"]) == {"kafka-data", "postgres-data"}


def test_the_password_says_that_it_is_for_local_use(compose: dict[str, Any]) -> None:
    assert compose["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"] == (
        "${POSTGRES_PASSWORD:-local-use-only}"
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
