"""Values that would cost money or time later are refused at once, with a sentence that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.generate import CHART
from tests.chart.chart_tools import ChartTools, environment

GOOD = CHART / "ci/default-values.yaml"
ALL_AGENTS = ["validate", "comply", "submit", "retry", "compensate", "review"]
SSL_REGISTRY = {"settings": {"SCHEMA_REGISTRY_URL": "https://registry:8081"}}


def _template(tools: ChartTools, directory: Path, changes: dict[str, Any]) -> tuple[int, str, str]:
    """The good values with these changes, as a file on top of them."""
    file = directory / "changes.yaml"
    file.write_text(yaml.safe_dump(changes), encoding="utf-8")
    answer = tools.template(GOOD, "--values", str(file))
    return answer.returncode, answer.stdout, answer.stderr


# What is wrong with the form: values.schema.json.
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"replicaCount": 3}, "additional properties 'replicaCount' not allowed"),
        ({"settings": {"VISA_PASSWORD": "x"}}, "'VISA_PASSWORD' not allowed"),
        ({"settings": {"DATABASE_URL": "postgresql://"}}, "'DATABASE_URL' not allowed"),
        ({"settings": {"VISA_CERT_PATH": "/a"}}, "'VISA_CERT_PATH' not allowed"),
        ({"settings": {"PAYOUTS_HTTP_PORT": 80}}, "'PAYOUTS_HTTP_PORT' not allowed"),
        ({"settings": {"PAYOUTS_IN_FLIGHT": 8}}, "'PAYOUTS_IN_FLIGHT' not allowed"),
        ({"settings": {"PAYOUTS_IN_FLIGHT_MAX": 0}}, "/settings/PAYOUTS_IN_FLIGHT_MAX"),
        ({"settings": {"VISA_ACQUIRING_BIN": 408999}}, "/settings/VISA_ACQUIRING_BIN"),
        ({"settings": {"VISA_INITIATING_PARTY_ID": 9007199254740993}}, "got number, want string"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"image": {"digest": "sha256:short"}}, "/image/digest"),
        ({"secrets": {"settings": {"existingSecret": "no such name"}}}, "/secrets/settings/existingSecret"),
        ({"secrets": {"visa": {"password": "x"}}}, "'password' not allowed"),
        ({"terminationGracePeriodSeconds": 30}, "/terminationGracePeriodSeconds"),
        ({"user": 0}, "/user"),
        ({"workers": [{"name": "all", "agents": ["everything"], "replicas": 1}]}, "/workers/0/agents/0"),
        ({"autoscaling": {"lagThreshold": "many"}}, "/autoscaling/lagThreshold"),
        ({"reconciliation": {"schedule": "@weekly"}}, "/reconciliation/schedule"),
        ({"reconciliation": {"timeZone": "Local"}}, "/reconciliation/timeZone"),
        ({"reconciliation": {"askVisa": True}}, "'askVisa' not allowed"),
        ({"reconciliation": {"deadlineSeconds": 0}}, "/reconciliation/deadlineSeconds"),
    ],
    ids=json.dumps,
)
def test_the_schema_refuses(tools: ChartTools, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    code, _, stderr = _template(tools, tmp_path, changes)
    assert code != 0
    assert said in stderr


# What is wrong with the sense: said all at once, as the worker does.
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"KAFKA_BOOTSTRAP_SERVERS": ""}}, "name the brokers"),
        ({"settings": {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}}, "production needs SSL or SASL_SSL"),
        ({"settings": {"VISA_BASE_URL": "http://visa.example.net:443"}}, "must be https"),
        ({"settings": {"VISA_MLE_KEY_ID": ""}}, "VISA_MLE_KEY_ID is empty"),
        ({"settings": {"VISA_MLE_NEXT_KEY_ID": "x"}}, "belong together"),
        ({"settings": {"VISA_JWKS_URL": "https://api.visa.com/k"}}, "set only one"),
        ({"settings": {"PAYOUTS_LEASE_SECONDS": 90}}, "longer than settings.PAYOUTS_LEASE_SECONDS"),
        (
            {"workers": [{"name": "all", "agents": ALL_AGENTS[:5], "replicas": 1}]},
            "no set runs the agent review",
        ),
        (
            {"workers": [{"name": "all", "agents": ALL_AGENTS, "replicas": 13}]},
            "up to 13 workers would share the 12 partitions of payout_requests",
        ),
        (
            {"workers": [{"name": name, "agents": ALL_AGENTS, "replicas": 7} for name in ("a", "b")]},
            "up to 14 workers",
        ),
        (
            {"workers": [{"name": "a", "agents": ALL_AGENTS, "replicas": 1} for _ in range(2)]},
            "two sets are named a",
        ),
        ({"autoscaling": {"enabled": True, "maxReplicas": 13}}, "lower maxReplicas"),
        ({"autoscaling": {"enabled": True, "minReplicas": 7}}, "minReplicas 7 above maxReplicas 6"),
        ({"autoscaling": {"enabled": True, "fallbackReplicas": 9}}, "fallbackReplicas 9 is above"),
        ({"autoscaling": {"pausedReplicas": "0"}}, "does nothing while autoscaling is off"),
        (
            {"autoscaling": {"enabled": True}, "settings": {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}},
            "autoscaling.saslSecret is empty",
        ),
        ({"strimzi": {"topics": {"enabled": True}}}, "strimzi.cluster is empty"),
        (
            {"strimzi": {"cluster": "a", "topics": {"enabled": True}}, "jobs": {"topics": {"enabled": True}}},
            "enable only one",
        ),
        ({"jobs": {"roles": {"enabled": True}}}, "only the tables' owner gives roles"),
        (
            {
                "reconciliation": {"enabled": True},
                "jobs": {"roles": {"enabled": True}, "migrate": {"existingSecret": "owner"}},
            },
            "a worker's login may not record what was found",
        ),
        (
            {
                "workers": [{"name": "intake", "agents": ["validate", "comply"], "replicas": 1}],
                "requireAllAgents": False,
                "settings": {"VISA_BASE_URL": ""},
                "reconciliation": {"enabled": True},
            },
            "VISA_BASE_URL is empty: whoever calls Visa needs it",
        ),
        ({"jobs": {"schemas": {"enabled": True}}}, "jobs.schemas needs settings.SCHEMA_REGISTRY_URL"),
        ({"networkPolicy": {"kafka": {"ports": [9092]}}}, "lacks 9093 of kafka.example.net:9093"),
        ({"settings": {"PAYOUTS_TRACING": "otlp"}}, "PAYOUTS_TRACING_ENDPOINT is empty"),
        (
            {"settings": {"PAYOUTS_TRACING": "otlp", "PAYOUTS_TRACING_ENDPOINT": "https://collector:4317/v1/traces"}},
            "lacks port 4317 of settings.PAYOUTS_TRACING_ENDPOINT",
        ),
        (SSL_REGISTRY, "lacks port 8081 of settings.SCHEMA_REGISTRY_URL"),
    ],
    ids=json.dumps,
)
def test_the_templates_refuse(tools: ChartTools, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    code, _, stderr = _template(tools, tmp_path, changes)
    assert code != 0
    assert "These values forbid an installation:" in stderr
    assert said in stderr


def test_all_that_is_wrong_is_said_at_once(tools: ChartTools, tmp_path: Path) -> None:
    code, _, stderr = _template(
        tools, tmp_path, {"settings": {"KAFKA_BOOTSTRAP_SERVERS": "", "VISA_BASE_URL": "", "VISA_MLE_KEY_ID": ""}}
    )
    assert code != 0
    assert stderr.count("\n- ") == 3


def test_sense_is_asked_only_where_it_applies(tools: ChartTools, tmp_path: Path) -> None:
    """The rest of the agents in another release; a stand-in under the test profile; no policy, no ports."""
    code, _, stderr = _template(
        tools,
        tmp_path,
        {
            "workers": [{"name": "intake", "agents": ["validate", "comply"], "replicas": 12}],
            "requireAllAgents": False,
            "settings": {
                "PAYOUTS_PROFILE": "test",
                "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
                "KAFKA_BOOTSTRAP_SERVERS": "kafka:19092",
                "VISA_BASE_URL": "",
                "VISA_MLE_KEY_ID": "",
            },
            "networkPolicy": {"enabled": False},
        },
    )
    assert code == 0, stderr


def test_numbers_arrive_as_they_were_written(tools: ChartTools, tmp_path: Path) -> None:
    """Helm reads numbers as floating point: none may come out as 1e+06, nor a long one as its neighbour."""
    given = {
        "VISA_INITIATING_PARTY_ID": "9007199254740993",
        "JWKS_CACHE_TTL_SECONDS": 86400,
        "VISA_RATE_LIMIT_PER_SECOND": 12.5,
        "VISA_ORIGINATOR_RATE_LIMIT_PER_SECOND": 100000,
        "AUDIT_RETENTION_DAYS": 3653,
    }
    code, stdout, stderr = _template(tools, tmp_path, {"settings": given})
    assert code == 0, stderr
    (worker,) = [
        found
        for found in yaml.safe_load_all(stdout)
        if found["kind"] == "Deployment" and found["metadata"]["name"].endswith("-all")
    ]
    shown = environment(worker["spec"]["template"]["spec"]["containers"][0])
    assert {name: shown[name] for name in given} == {name: str(value) for name, value in given.items()}


def test_a_paused_release_stays_paused(tools: ChartTools, tmp_path: Path) -> None:
    """Moving offsets: an upgrade in the middle of it must not start the workers (RUNBOOK.md, "Move offsets")."""
    changes = {"autoscaling": {"enabled": True, "pausedReplicas": "0"}}
    code, stdout, stderr = _template(tools, tmp_path, changes)
    assert code == 0, stderr
    (scaled,) = [found for found in yaml.safe_load_all(stdout) if found["kind"] == "ScaledObject"]
    assert scaled["metadata"]["annotations"] == {"autoscaling.keda.sh/paused-replicas": "0"}
