"""The chart under the tools of others: helm lint, Kubernetes' and the operators' schemas, a policy scan, YAML lint."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from helm.generate import CHART, SCHEMA_FILE
from tests.chart.chart_tools import VALUES_FILES, ChartTools, Manifest, Rendered

CRDS = Path(__file__).parent / "crds"
CRD_SCHEMAS: Mapping[str, Any] = {
    file.stem: json.loads(file.read_text(encoding="utf-8")) for file in CRDS.glob("*.json")
}
KUBERNETES_VERSIONS = ("1.29.0", "1.35.0")
"""The oldest that Chart.yaml allows, and a new one."""
SKIPPED_POLICIES = {
    "CKV_K8S_11": "a CPU limit throttles heartbeats and leases; the request is what keeps a worker its core",
    "CKV_K8S_15": "a worker must be able to start again while the registry of images is away; digests do not move",
    "CKV_K8S_43": "the digest of a release exists only after its push; image.digest takes it, and a test holds that",
}
PLANTED_POD = """\
apiVersion: v1
kind: Pod
metadata: {name: planted, namespace: payouts}
spec:
  containers:
    - {name: planted, image: "payout-streams:0.1.0", securityContext: {privileged: true}}
"""


@pytest.fixture(scope="module")
def files(chart_of: Mapping[str, Rendered], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What each values file makes of the chart, on the disk, for tools that read files."""
    directory = tmp_path_factory.mktemp("manifests")
    paths = []
    for name, rendered in chart_of.items():
        paths.append(directory / f"{name}.yaml")
        paths[-1].write_text(rendered.text, encoding="utf-8")
    return paths


def test_there_is_a_values_file_for_every_way_to_install() -> None:
    names = {file.name.removesuffix("-values.yaml") for file in VALUES_FILES}
    assert names == {"default", "minimal", "split-agents", "strimzi-keda", "external-secrets", "everything"}


@pytest.mark.parametrize("values", VALUES_FILES, ids=lambda file: file.name)
def test_helm_finds_nothing_to_complain_about(tools: ChartTools, values: Path) -> None:
    answer = tools.lint(values)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_kubernetes_knows_every_field(tools: ChartTools, files: list[Path]) -> None:
    """Strict: a field that Kubernetes does not know, or of another type, is an error; so is a planted one."""
    planted = files[0].with_name("planted.yaml")
    planted.write_text(PLANTED_POD.replace("image:", "imagge:"), encoding="utf-8")
    script = Path(__file__).with_name("kubernetes_schemas.py")
    answer = tools.run("python", script, ",".join(KUBERNETES_VERSIONS), *files, planted)
    lines = answer.stdout.splitlines()
    unknown = {line.removeprefix("unknown ") for line in lines if line.startswith("unknown ")}
    wrong = [line for line in lines if not line.startswith("unknown ")]
    assert answer.returncode == 0, answer.stderr
    assert len(wrong) == len(KUBERNETES_VERSIONS)
    assert all(str(planted) in line and "imagge" in line for line in wrong), wrong
    assert unknown <= set(CRD_SCHEMAS), "each kind of an operator has a schema here"


def _crd_errors(manifest: Manifest) -> list[str]:
    validator = jsonschema.Draft202012Validator(CRD_SCHEMAS[manifest["kind"]])
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(manifest)]


def test_the_operators_know_every_field(rendered: Rendered) -> None:
    """KEDA, Prometheus and Strimzi: their own definitions, closed to fields they do not describe."""
    for manifest in rendered.manifests:
        if manifest["kind"] in CRD_SCHEMAS:
            assert _crd_errors(manifest) == [], manifest["metadata"]["name"]


def test_a_wrong_field_for_an_operator_is_seen(chart_of: Mapping[str, Rendered]) -> None:
    everything = chart_of["everything"]
    kinds = {manifest["kind"] for manifest in everything.manifests} & set(CRD_SCHEMAS)
    assert kinds >= {"ScaledObject", "TriggerAuthentication", "PodMonitor", "KafkaTopic", "KafkaUser"}
    for kind in kinds:
        manifest = copy.deepcopy(everything.of(kind)[0])
        manifest["spec"]["noSuchField"] = 1
        assert any("noSuchField" in error for error in _crd_errors(manifest)), kind
    scaled = copy.deepcopy(everything.of("ScaledObject")[0])
    scaled["spec"]["triggers"][0]["metadata"]["lagThreshold"] = 5
    assert _crd_errors(scaled) != []


def test_the_policy_scan_finds_nothing(tools: ChartTools, files: list[Path]) -> None:
    """checkov, all of its checks for Kubernetes but those named above, each with its reason; a planted pod is found."""
    planted = files[0].with_name("planted.yaml")
    planted.write_text(PLANTED_POD, encoding="utf-8")
    answer = tools.run(
        "checkov",
        *("--directory", planted.parent, "--framework", "kubernetes", "--output", "json", "--compact", "--quiet"),
        *("--skip-check", ",".join(SKIPPED_POLICIES), "--skip-download"),
    )
    report = json.loads(answer.stdout)
    failed = report["results"]["failed_checks"]
    ours = [f"{found['check_id']} {found['resource']}" for found in failed if found["file_path"] != "/planted.yaml"]
    assert ours == []
    assert "CKV_K8S_16" in {found["check_id"] for found in failed}, "the planted pod is privileged"
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 1000


def test_a_policy_that_is_not_applied_has_its_reason(rendered: Rendered) -> None:
    for manifest in rendered.manifests:
        notes = manifest["metadata"].get("annotations", {})
        skipped = {key: note for key, note in notes.items() if key.startswith("checkov.io/")}
        assert all(note.partition("=")[2] for note in skipped.values())
        assert not skipped or notes["helm.sh/hook"] == "test", "only a test, which ends, has nothing to be probed for"


def test_yaml_is_clean(tools: ChartTools) -> None:
    """What is YAML before it is a template, and the Compose file."""
    rules = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"
    paths = [CHART / "Chart.yaml", CHART / "values.yaml", *VALUES_FILES, CHART.parents[1] / "docker-compose.kafka.yml"]
    answer = tools.run("yamllint", "--strict", "--config-data", rules, *paths)
    assert answer.returncode == 0, answer.stdout


def test_the_schema_of_the_values_is_one() -> None:
    """And closed everywhere: a typing error in a value must not be ignored."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    open_objects = {"global", "volume", "affinity", "tolerations", "extraEgress", "peers", "texts"}
    found = _open_objects(schema, "")
    assert found
    assert {path.split("/")[-1] for path in found} <= open_objects
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(values)] == []


def _open_objects(schema: Any, path: str) -> list[str]:
    """Where a schema takes objects with names that it does not know."""
    found = []
    if isinstance(schema, dict):
        if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
            found.append(path.removesuffix("/items"))
        for name, part in schema.items():
            if name in ("properties", "definitions"):
                for key, inner in part.items():
                    found += _open_objects(inner, f"{path}/{key}")
            elif name == "items":
                found += _open_objects(part, f"{path}/items")
    return found
