"""Commands for a cluster, which no test executes: every name, flag and value in them is one of the chart's."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping

import pytest
import yaml

from helm.generate import CHART, SCHEMA_FILE
from tests.chart.chart_tools import ROOT, ChartTools, Manifest
from tests.docs.documents import Command, commands, read
from tests.docs.test_documents import _check_our_command

DOCUMENTS = ("README.md", "RUNBOOK.md", "helm/payout-streams/README.md")
CLUSTER_COMMANDS = [c for name in DOCUMENTS for c in commands(name) if c.text.startswith(("helm ", "kubectl "))]
RELEASE, NAMESPACE = "payout-streams", "payouts"
HELM_FLAGS = {
    "upgrade": {"--install", "--namespace", "--create-namespace", "--values", "--wait", "--timeout"},
    "rollback": {"--namespace", "--wait", "--timeout"},
    "test": {"--namespace", "--logs"},
    "history": {"--namespace"},
}
KUBECTL_FLAGS = {
    "annotate": {"--namespace", "--overwrite"},
    "create": {"--namespace", "--from-file"},
    "exec": {"--namespace"},
    "get": {"--namespace", "--selector", "--output"},
    "logs": {"--namespace"},
    "scale": {"--namespace", "--replicas"},
    "wait": {"--namespace", "--selector", "--for", "--timeout"},
}
KINDS = {"deployment": "Deployment", "scaledobject": "ScaledObject", "job": "Job", "pod": "Pod"}


@pytest.fixture(scope="module")
def installed(tools: ChartTools) -> list[Manifest]:
    """The chart as the books install it, scaled by KEDA."""
    answer = tools.run(
        *("helm", "template", RELEASE, CHART, "--namespace", NAMESPACE),
        *("--values", CHART / "ci/default-values.yaml", "--set", "autoscaling.enabled=true"),
    )
    assert answer.returncode == 0, answer.stderr
    return [found for found in yaml.safe_load_all(answer.stdout) if found]


def test_there_are_commands_to_check() -> None:
    """Deploying, rolling back and scaling have theirs."""
    said = {tuple(shlex.split(command.text)[:2]) for command in CLUSTER_COMMANDS}
    assert {("helm", "upgrade"), ("helm", "rollback"), ("helm", "test"), ("kubectl", "scale")} <= said
    assert ("kubectl", "annotate") in said


@pytest.mark.parametrize("command", CLUSTER_COMMANDS, ids=str)
def test_commands_for_a_cluster_fit_the_chart(command: Command, tools: ChartTools, installed: list[Manifest]) -> None:
    outer, _, inner = command.text.partition(" -- ")
    words = shlex.split(outer)
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert words[words.index("--namespace") + 1] == NAMESPACE
    if words[0] == "helm":
        assert flags <= HELM_FLAGS[words[1]]
        assert words[2] == RELEASE
        known = tools.run("helm", words[1], "--help").stdout
        assert all(f"{flag} " in known or f"{flag}=" in known for flag in flags)
        if words[1] == "upgrade":
            assert ROOT / words[3] == CHART
        return
    assert flags <= KUBECTL_FLAGS[words[1]]
    if words[1] == "create":
        assert words[4] in {found for found in _secret_names(installed) if found}
        return
    kind, _, name = words[2].partition("/")
    if "--selector" in words:
        key, _, value = words[words.index("--selector") + 1].partition("=")
        assert any(
            found["metadata"]["labels"].get(key) == value for found in installed if found["kind"] == "Deployment"
        )
    else:
        assert (KINDS[kind], name or words[3]) in {(m["kind"], m["metadata"]["name"]) for m in installed}
    if inner:
        assert shlex.split(inner)[0] == "payouts"
        _check_our_command(shlex.split(inner)[1:])


def _secret_names(manifests: list[Manifest]) -> set[str]:
    return {
        volume["secret"]["secretName"]
        for found in manifests
        if found["kind"] in ("Deployment", "Job")
        for volume in found["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    }


@pytest.mark.parametrize("document", [*DOCUMENTS, "helm/payout-streams/templates/NOTES.txt"])
def test_objects_named_in_prose_are_the_charts(document: str, installed: list[Manifest]) -> None:
    """`payout-streams-…` is a Deployment, Job, ScaledObject or Secret that there is."""
    names = {found["metadata"]["name"] for found in installed} | _secret_names(installed)
    text = read(document)
    assert set(re.findall(r"`(payout-streams-[a-z-]*[a-z])`", text)) <= names
    assert set(re.findall(r"(?:deployment|job)/(payout-streams-[a-z-]+)", text)) <= names
    assert set(re.findall(r"scaledobject (payout-streams-[a-z-]+)", text)) <= names


@pytest.mark.parametrize("document", DOCUMENTS)
def test_values_named_in_prose_are_values(document: str) -> None:
    """`autoscaling.pausedReplicas` and the like: a value that the schema does not know would be refused."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    tops = "|".join(name for name, part in schema["properties"].items() if part.get("type") == "object")
    for path in re.findall(rf"`((?:{tops})\.[A-Za-z_.]+)`", read(document)):
        assert _has(schema, schema, path.split(".")), path


def _has(schema: Mapping[str, object], part: Mapping[str, object], names: list[str]) -> bool:
    if "$ref" in part:
        definitions = schema["definitions"]
        assert isinstance(definitions, dict)
        return _has(schema, definitions[str(part["$ref"]).rsplit("/", 1)[1]], names)
    if not names:
        return True
    properties = part.get("properties", {})
    assert isinstance(properties, dict)
    return names[0] in properties and _has(schema, properties[names[0]], names[1:])
