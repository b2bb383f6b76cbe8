"""Rendering the chart by helm itself, and finding things in what comes out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from helm.generate import CHART

ROOT = CHART.parents[1]
VALUES_FILES = tuple(sorted((CHART / "ci").glob("*-values.yaml")))
RELEASE = NAMESPACE = "payouts"
HELM_SECONDS_MAX = 60.0

Manifest = dict[str, Any]


@dataclass(frozen=True)
class ChartTools:
    """Programs of the chart's own environment."""

    programs: Path

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """One of them, to its end, whatever that is."""
        return subprocess.run(
            [self.programs / program, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=HELM_SECONDS_MAX,
            check=False,
        )

    def template(self, values: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`helm template` of a values file."""
        return self.run("helm", "template", RELEASE, CHART, "--namespace", NAMESPACE, "--values", values, *arguments)

    def lint(self, values: Path) -> subprocess.CompletedProcess[str]:
        """`helm lint --strict`."""
        return self.run("helm", "lint", "--strict", CHART, "--values", values)


@dataclass(frozen=True)
class Rendered:
    """What one values file makes of the chart."""

    name: str
    text: str
    values: Mapping[str, Any]

    @cached_property
    def manifests(self) -> list[Manifest]:
        """Every object, hooks and tests included."""
        return [found for found in yaml.safe_load_all(self.text) if found]

    def of(self, kind: str) -> list[Manifest]:
        """The objects of a kind."""
        return [found for found in self.manifests if found["kind"] == kind]

    def workers(self) -> list[Manifest]:
        """The Deployments that run agents."""
        return [found for found in self.of("Deployment") if component(found).startswith("worker-")]

    def pods(self) -> Iterator[tuple[Manifest, Manifest]]:
        """(owner, pod's spec) of all that runs."""
        for found in self.manifests:
            if found["kind"] == "Pod":
                yield found, found["spec"]
            elif found["kind"] in ("Deployment", "Job", "CronJob"):
                yield found, pod_template(found)["spec"]

    def containers(self) -> Iterator[tuple[Manifest, Manifest]]:
        """(owner, container) of all that runs."""
        for owner, pod in self.pods():
            for container in (*pod["containers"], *pod.get("initContainers", ())):
                yield owner, container


def pod_template(manifest: Manifest) -> Manifest:
    """Of a Deployment, a Job or a CronJob."""
    spec = manifest["spec"]["jobTemplate"]["spec"] if manifest["kind"] == "CronJob" else manifest["spec"]
    return dict(spec["template"])


def component(manifest: Manifest) -> str:
    """What part of the system an object is."""
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def environment(container: Manifest) -> dict[str, str]:
    """A container's variables; a test holds that none comes from elsewhere."""
    return {entry["name"]: entry["value"] for entry in container["env"]}
