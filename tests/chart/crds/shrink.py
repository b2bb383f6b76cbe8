"""Makes a strict JSON schema of a CustomResourceDefinition.

    python -m tests.chart.crds.shrink CRD.yaml VERSION > KIND.json

The schemas beside this file were made so from the projects' own definitions:

    ScaledObject, TriggerAuthentication   kedacore/keda v2.20.2
    PodMonitor, PrometheusRule            prometheus-operator/prometheus-operator v0.93.0
    KafkaTopic, KafkaUser                 strimzi/strimzi-kafka-operator 1.2.0

all under the Apache License 2.0. Descriptions are left out; a field that is not described is refused, as an API server
does with `--validate=strict`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml


def strict(node: Any) -> Any:
    """The schema without descriptions and Kubernetes' own words, closed to unknown fields."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: {name: strict(schema) for name, schema in value.items()} if key == "properties" else strict(value)
        for key, value in node.items()
        if not key.startswith("x-kubernetes-") and key not in ("description", "default", "format")
    }
    if node.get("x-kubernetes-int-or-string"):
        kept.pop("type", None)
        kept.pop("anyOf", None)
        kept["type"] = ["integer", "string"]
    is_open = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if "properties" in node and not is_open:
        kept["additionalProperties"] = False
    return kept


def schema_of(definition: dict[str, Any], version: str) -> dict[str, Any]:
    """One version of a definition. KeyError: it has no such version."""
    versions = {found["name"]: found["schema"]["openAPIV3Schema"] for found in definition["spec"]["versions"]}
    schema = strict(versions[version])
    # Every object's; described by Kubernetes, not here.
    schema["properties"]["metadata"] = {"type": "object"}
    schema["required"] = sorted({*schema.get("required", ()), "apiVersion", "kind", "metadata", "spec"})
    schema["properties"]["kind"] = {"const": definition["spec"]["names"]["kind"]}
    schema["properties"]["apiVersion"] = {"const": f"{definition['spec']['group']}/{version}"}
    return dict(schema)


if __name__ == "__main__":
    (found,) = [
        crd
        for crd in yaml.safe_load_all(Path(sys.argv[1]).read_text(encoding="utf-8"))
        if crd and crd.get("kind") == "CustomResourceDefinition"
    ]
    sys.stdout.write(json.dumps(schema_of(found, sys.argv[2]), separators=(",", ":"), sort_keys=True) + "\n")
