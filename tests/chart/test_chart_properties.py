"""What the chart promises, whatever the values: one property a test, over every values file."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from helm.generate import CHART
from ops.environment import DATABASE, KAFKA, settings_for
from ops.exit_codes import ExitCode
from ops.lag import EXPORT_PORT
from ops.main import app
from ops.worker import VISA_AGENTS, check_start, parse_agents
from streams import settings as settings_module
from streams.bootstrap import DRAIN_MARGIN_SECONDS
from streams.keys import create_keys
from streams.settings import Settings, load_settings, open_to_others
from tests.chart.chart_tools import Manifest, Rendered, component, environment, pod_template

RUNBOOK_URL = "https://runbooks.example/payout-streams/RUNBOOK.md"
"""In the files of the rules; a value takes its place."""
ALERTS_AFTER_SECONDS = 26 * 3600
RESTRICTED_CAPABILITIES = {"drop": ["ALL"]}


def _agents(deployment: Manifest) -> tuple[str, ...]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"][:2] == ["worker", "--agents"]
    return parse_agents(container["args"][2])


def test_images_are_named_exactly(rendered: Rendered) -> None:
    """A tag of a release or a digest; never `latest`, and one image for all."""
    images = {container["image"] for _, container in rendered.containers()}
    assert len(images) == 1
    (image,) = images
    digest = rendered.values["image"]["digest"]
    assert image.endswith(f"@{digest}") if digest else image.endswith(":0.1.0")


def test_pods_are_restricted(rendered: Rendered) -> None:
    """The restricted profile of Kubernetes, no token, and nothing to write to but two small places of their own."""
    for owner, pod in rendered.pods():
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 10001, 10001), owner
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for volume in pod["volumes"]:
            assert "hostPath" not in volume
            assert volume.get("emptyDir", {"sizeLimit": "64Mi"})["sizeLimit"] == "64Mi"
    for owner, container in rendered.containers():
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True, owner
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == RESTRICTED_CAPABILITIES
        assert "privileged" not in security
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/tmp", container["workingDir"]}  # noqa: S108


def test_no_cpu_limit_and_a_memory_limit(rendered: Rendered) -> None:
    """A throttled worker misses its lease; one that leaks is ended."""
    for owner, container in rendered.containers():
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert "cpu" not in limits, owner
        assert {"memory", "ephemeral-storage"} <= set(limits)
        assert {"cpu", "memory", "ephemeral-storage"} <= set(requests)


def test_secrets_are_files(rendered: Rendered) -> None:
    """S4: no secret in a variable, in a ConfigMap or in a Secret of the chart's own; files are not the world's."""
    secret_names = {name.upper() for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)}
    assert {"DATABASE_URL", "VISA_PASSWORD", "KAFKA_SASL_PASSWORD"} <= secret_names
    for owner, container in rendered.containers():
        assert "envFrom" not in container
        assert all("valueFrom" not in entry for entry in container["env"]), owner
        assert not secret_names & set(environment(container))
    assert rendered.of("Secret") == []
    for _, pod in rendered.pods():
        for volume in pod["volumes"]:
            source = volume.get("secret") or volume.get("projected")
            if source:
                assert source["defaultMode"] & (stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP) == 0


def test_no_worker_gets_the_key_of_the_dead_letters(rendered: Rendered) -> None:
    """Only whoever opens dead letters has it (`payouts keys create --help`)."""
    for worker in rendered.workers():
        assert "keys" in {volume["name"] for volume in worker["spec"]["template"]["spec"]["volumes"]}
    for _, pod in rendered.pods():
        for volume in pod["volumes"]:
            if volume["name"] == "keys":
                paths = {item["path"] for item in volume["secret"]["items"]}
                assert "dead_letter_private.jwk.json" not in paths
                assert {"sealing_keys.json", "content_keys.json", "party_private.jwks.json"} <= paths


def test_only_those_who_call_visa_hold_its_certificates(rendered: Rendered) -> None:
    for deployment in rendered.workers():
        volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
        assert ("visa" in volumes) == bool(VISA_AGENTS & set(_agents(deployment))), deployment["metadata"]["name"]
    for exporter in (d for d in rendered.of("Deployment") if component(d) == "lag-exporter"):
        names = {volume["name"] for volume in exporter["spec"]["template"]["spec"]["volumes"]}
        assert not {"visa", "keys", "database"} & names


def test_every_agent_runs_and_every_command_exists(rendered: Rendered) -> None:
    """P1: an agent that nobody runs is a queue that nobody empties."""
    run = [agent for deployment in rendered.workers() for agent in _agents(deployment)]
    assert sorted(run) == sorted(settings_module.AGENT_NAMES)
    for owner, container in rendered.containers():
        assert "command" not in container, owner
        _check_arguments(container["args"])


def _check_arguments(arguments: list[str]) -> None:
    command: Any = get_command(app)
    words = list(arguments)
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
    while words:
        option = options[words.pop(0)]
        if not getattr(option, "is_flag", False):
            words.pop(0)


def test_probes_ask_what_they_should(rendered: Rendered) -> None:
    """Liveness asks the process alone, readiness whether it can pay; on the port that the container listens on."""
    for deployment in rendered.of("Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        (port,) = container["ports"]
        paths = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert {probe["port"] for probe in paths.values()} == {port["name"]}
        assert paths["livenessProbe"]["path"] == paths["startupProbe"]["path"] == "/health"
        if component(deployment) == "lag-exporter":
            assert port["containerPort"] == EXPORT_PORT
            assert container["args"][2:6] == ["--host", "0.0.0.0", "--port", str(EXPORT_PORT)]  # noqa: S104
        else:
            assert paths["readinessProbe"]["path"] == "/health/critical"
            assert str(port["containerPort"]) == environment(container)["PAYOUTS_HTTP_PORT"]
            assert environment(container)["PAYOUTS_HTTP_HOST"] == "0.0.0.0"  # noqa: S104
            startup = container["startupProbe"]
            assert startup["periodSeconds"] * startup["failureThreshold"] == rendered.values["startupSeconds"]


def test_workers_are_replaced_one_by_one(rendered: Rendered) -> None:
    """S3-27: never more workers than partitions, one rebalance at a time, and time to finish what is under way."""
    for deployment in rendered.workers():
        spec = deployment["spec"]
        assert spec["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
        }
        assert spec["minReadySeconds"] > 0
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        lease = float(environment(container).get("PAYOUTS_LEASE_SECONDS", 60))
        grace = pod["terminationGracePeriodSeconds"]
        production = Settings(_env_file=None)  # type: ignore[call-arg]
        assert production.production
        assert grace > lease
        drain = production.http_total_seconds + DRAIN_MARGIN_SECONDS + production.unconfirmed_seconds
        assert grace > drain


def test_a_disruption_takes_one_worker(rendered: Rendered) -> None:
    budgets = {component(budget): budget["spec"] for budget in rendered.of("PodDisruptionBudget")}
    if rendered.name == "minimal":
        assert budgets == {}
        return
    assert set(budgets) == {component(deployment) for deployment in rendered.workers()}
    for deployment in rendered.workers():
        budget = budgets[component(deployment)]
        assert budget["maxUnavailable"] == 1
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert budget["selector"] == deployment["spec"]["selector"]


def test_workers_of_a_set_are_spread(rendered: Rendered) -> None:
    for deployment in rendered.workers():
        spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [rule["topologyKey"] for rule in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        assert all(rule["labelSelector"] == deployment["spec"]["selector"] for rule in spread)


def test_selectors_find_their_pods(rendered: Rendered) -> None:
    """And nobody else's: no two Deployments fight for a pod."""
    deployments = rendered.of("Deployment")
    for deployment in deployments:
        wanted = deployment["spec"]["selector"]["matchLabels"].items()
        found = [
            d["metadata"]["name"] for d in deployments if wanted <= d["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert found == [deployment["metadata"]["name"]]


def test_all_that_runs_is_behind_the_network_policy(rendered: Rendered) -> None:
    """Nothing comes in but scrapes; nothing goes out but names, brokers, database, Visa, registry."""
    (policy,) = rendered.of("NetworkPolicy")
    wanted = policy["spec"]["podSelector"]["matchLabels"].items()
    for manifest in rendered.manifests:
        if manifest["kind"] in ("Deployment", "Job", "CronJob"):
            assert wanted <= pod_template(manifest)["metadata"]["labels"].items()
        elif manifest["kind"] == "Pod":
            assert wanted <= manifest["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = policy["spec"]["ingress"]
    assert [port["port"] for port in ingress["ports"]] == [6066, 6067]
    assert ingress["from"]
    egress = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert {53, 443, 5432} < egress
    registry = bool(rendered.values["settings"].get("SCHEMA_REGISTRY_URL"))
    assert (8085 in egress) == registry
    assert (4318 in egress) == (rendered.values["settings"].get("PAYOUTS_TRACING") == "otlp")


def test_jobs_end_and_come_before_the_workers(rendered: Rendered) -> None:
    """Migrations first, then the rights on what is new; no later job begins when one fails."""
    weights = {}
    for job in rendered.of("Job"):
        notes, spec = job["metadata"]["annotations"], job["spec"]
        assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert spec["activeDeadlineSeconds"] > 0
        assert spec["template"]["spec"]["restartPolicy"] == "Never"
        # Who and why, for the ledger's history; nobody is there to be asked.
        assert spec["template"]["spec"]["containers"][0]["args"][-4:-1] == ["--operator", "helm", "--reason"]
        # A hook comes before every object of the chart.
        assert "serviceAccountName" not in spec["template"]["spec"]
        weights[component(job)] = int(notes["helm.sh/hook-weight"])
    assert sorted(weights, key=weights.__getitem__) == [
        name for name in ("job-migrate", "job-roles", "job-topics", "job-schemas") if name in weights
    ]
    assert ("job-migrate" in weights) == (rendered.name != "minimal")


def test_the_owners_login_is_where_tables_are_changed_and_nowhere_else(chart_of: Mapping[str, Rendered]) -> None:
    """Least rights: workers and tests never mount the owner's settings."""
    rendered = chart_of["external-secrets"]
    holders = {
        component(owner)
        for owner, pod in rendered.pods()
        for volume in pod["volumes"]
        if volume.get("secret", {}).get("secretName") == "vault-payouts-owner"
    }
    assert holders == {"job-migrate", "job-roles"}


def test_the_books_are_compared_daily_once_and_by_an_operator(chart_of: Mapping[str, Rendered]) -> None:
    """S4-23, E7: one run after the other, by an operator's login; Visa's certificates only to ask for its report."""
    assert {name for name, rendered in chart_of.items() if rendered.of("CronJob")} == {"external-secrets", "everything"}
    for name, secret in (("external-secrets", "vault-payouts-operator"), ("everything", "payouts-operator")):
        rendered = chart_of[name]
        (found,) = rendered.of("CronJob")
        spec, pod = found["spec"], pod_template(found)["spec"]
        assert (spec["concurrencyPolicy"], pod["restartPolicy"]) == ("Forbid", "Never")
        assert 0 < spec["startingDeadlineSeconds"] <= ALERTS_AFTER_SECONDS - 24 * 3600
        assert spec["timeZone"]
        (container,) = pod["containers"]
        visa = name == "everything"
        assert container["args"] == [
            *("reconcile", "daily", "--catch-up", "--operator", "helm:payouts"),
            *(["--ask-visa"] if visa else []),
        ]
        names = {volume["name"] for volume in pod["volumes"]}
        assert names >= {"kafka", "database", "settings"}
        assert ("visa" in names, "keys" in names) == (visa, False)
        holders = {
            component(owner)
            for owner, of_owner in rendered.pods()
            for volume in of_owner["volumes"]
            if volume.get("secret", {}).get("secretName") == secret
        }
        assert holders == {"reconcile"}, "what workers and jobs need is another login"


def test_a_run_that_found_something_is_not_run_again(rendered: Rendered) -> None:
    """S4-23: exit code 1 says that exceptions were recorded; what another try cannot mend is not tried again."""
    for found in rendered.of("CronJob"):
        spec = found["spec"]["jobTemplate"]["spec"]
        (container,) = pod_template(found)["spec"]["containers"]
        ignored, failed = spec["podFailurePolicy"]["rules"]
        assert (failed["action"], failed["onExitCodes"]["operator"]) == ("FailJob", "In")
        assert failed["onExitCodes"]["containerName"] == container["name"]
        assert failed["onExitCodes"]["values"] == [ExitCode.FOUND, ExitCode.USAGE, ExitCode.REFUSED]
        assert ignored == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        assert spec["backoffLimit"] > 0, "a database that is away for a minute is no reason to wait for a day"
        assert spec["activeDeadlineSeconds"] == rendered.values["reconciliation"].get("deadlineSeconds", 3600)


def test_the_alert_leaves_the_schedule_time_to_be_late() -> None:
    """E7: the hours of ReconciliationNotRun are those that the schedule was made for."""
    rules = (CHART / "files/rules/reconciliation.yaml").read_text(encoding="utf-8")
    assert f"> {ALERTS_AFTER_SECONDS // 3600} * 3600" in rules


def test_the_test_of_a_release_is_the_doctor(rendered: Rendered) -> None:
    """`helm test` checks what a worker needs, with what a worker has."""
    (pod,) = rendered.of("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert container["args"][0] == "doctor"
    assert ("--no-visa" in container["args"]) == (not rendered.values.get("test", {"visa": True})["visa"])
    worker = next(d for d in rendered.workers() if VISA_AGENTS & set(_agents(d)))
    (worker_container,) = worker["spec"]["template"]["spec"]["containers"]
    http = {"PAYOUTS_HTTP_HOST", "PAYOUTS_HTTP_PORT"}
    of_worker = {name: value for name, value in environment(worker_container).items() if name not in http}
    assert environment(container) == of_worker
    assert container["volumeMounts"] == worker_container["volumeMounts"]


def test_everything_is_in_the_namespace_of_the_release(rendered: Rendered) -> None:
    assert {manifest["metadata"]["namespace"] for manifest in rendered.manifests} == {"payouts"}
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in rendered.manifests]
    assert len(names) == len(set(names))


def test_rules_and_dashboards_are_the_files(chart_of: Mapping[str, Rendered]) -> None:
    """The very files that are tested elsewhere, nothing in them taken for a template; none of them is no error."""
    everything = chart_of["everything"]
    rules = {file.stem.replace("_", "-"): file for file in (CHART / "files/rules").glob("*.yaml")}
    found = {
        rule["metadata"]["name"].removeprefix("payouts-"): rule["spec"] for rule in everything.of("PrometheusRule")
    }
    assert set(found) == set(rules)
    for name, spec in found.items():
        shipped_text = rules[name].read_text(encoding="utf-8").replace(RUNBOOK_URL, "https://wiki.example.net/payouts")
        assert spec == yaml.safe_load(shipped_text)
        assert list(spec) == ["groups"]
    dashboards = {file.name: file for file in (CHART / "files/dashboards").glob("*.json")}
    maps = [found for found in everything.of("ConfigMap") if component(found) == "dashboards"]
    shipped = {name: json.loads(text) for config_map in maps for name, text in config_map["data"].items()}
    assert shipped == {name: json.loads(file.read_text(encoding="utf-8")) for name, file in dashboards.items()}
    assert all(config_map["metadata"]["labels"]["grafana_dashboard"] == "1" for config_map in maps)


def test_the_metrics_of_every_pod_are_scraped(chart_of: Mapping[str, Rendered]) -> None:
    everything = chart_of["everything"]
    for deployment in everything.of("Deployment"):
        template = deployment["spec"]["template"]
        labels = template["metadata"]["labels"].items()
        endpoints = [
            endpoint["port"]
            for monitor in everything.of("PodMonitor")
            if monitor["spec"]["selector"]["matchLabels"].items() <= labels
            for endpoint in monitor["spec"]["podMetricsEndpoints"]
        ]
        assert endpoints == [template["spec"]["containers"][0]["ports"][0]["name"]], deployment["metadata"]["name"]


def test_scrapes_have_the_names_that_alerts_ask_for(chart_of: Mapping[str, Rendered]) -> None:
    """The label `job` is the same here, under Compose and in the rules: an alert on another one can never fire."""
    everything = chart_of["everything"]
    jobs = {
        template["metadata"]["labels"][monitor["spec"]["jobLabel"]]
        for monitor in everything.of("PodMonitor")
        for template in (found["spec"]["template"] for found in everything.of("Deployment"))
        if monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    }
    compose = yaml.safe_load((CHART.parents[1] / "docker-compose.kafka.yml").read_text(encoding="utf-8"))
    scrapes = yaml.safe_load(compose["configs"]["prometheus"]["content"])["scrape_configs"]
    assert jobs == {scrape["job_name"] for scrape in scrapes} == {"payouts-worker", "payouts-lag"}
    rules = "".join(file.read_text(encoding="utf-8") for file in (CHART / "files/rules").glob("*.yaml"))
    assert set(re.findall(r'\bjob="([^"]+)"', rules)) <= jobs


@pytest.mark.parametrize("name", ["default", "split-agents", "external-secrets", "everything"])
def test_a_worker_may_start_with_what_the_chart_gives_it(
    chart_of: Mapping[str, Rendered], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The production profile finds nothing to refuse: files where the variables say, as Kubernetes mounts them.

    A Secret's files are root's and readable by the group of the pod, which is the only way in which a user who is not
    root gets them.
    """
    for deployment in chart_of[name].workers():
        pod = deployment["spec"]["template"]["spec"]
        _enter(pod, tmp_path / deployment["metadata"]["name"], monkeypatch)
        check_start(load_settings(), _agents(deployment))
        monkeypatch.undo()


@pytest.mark.parametrize("name", ["external-secrets", "everything"])
def test_a_job_may_connect_with_what_the_chart_gives_it(
    chart_of: Mapping[str, Rendered], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, for what each command connects to; none of them has more than it needs."""
    connections = {
        "job-migrate": (DATABASE,),
        "job-roles": (DATABASE,),
        "job-schemas": ("SCHEMA_REGISTRY_URL",),
        "lag-exporter": (KAFKA,),
        "reconcile": (DATABASE, KAFKA),
    }
    checked = set()
    for owner, pod in chart_of[name].pods():
        if component(owner) in connections:
            _enter(pod, tmp_path / owner["metadata"]["name"], monkeypatch)
            settings = settings_for(*connections[component(owner)])
            assert settings.production
            if "visa" in {volume["name"] for volume in pod["volumes"]}:
                assert [said for said in settings.problems(needs_visa=True) if said.startswith("VISA_")] == []
            monkeypatch.undo()
            checked.add(component(owner))
    assert checked >= {"job-migrate", "job-roles", "lag-exporter", "reconcile"}


def _enter(pod: Manifest, mounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in the container: its files, its variables and nobody else's."""
    (container,) = pod["containers"]
    _mount(pod, mounts)
    for variable in {name.upper() for name in Settings.model_fields} | {"PAYOUTS_SETTINGS_FILE"}:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment(container).items():
        monkeypatch.setenv(variable, value.replace("/etc/payouts", str(mounts)))
    monkeypatch.setattr(settings_module, "open_to_others", lambda mode, *_: open_to_others(mode, 0, 10001))


def _mount(pod: Manifest, directory: Path) -> None:
    """What the Secrets of a pod are as files. Their content matters only where the settings look into it."""
    settings = "DATABASE_URL=postgresql://w:p@db/payouts?sslmode=verify-full\nVISA_USER_ID=u\nVISA_PASSWORD=p\n"
    for volume in pod["volumes"]:
        place = directory / volume["name"]
        place.mkdir(parents=True)
        if volume["name"] == "keys":
            create_keys(place)
        elif volume["name"] == "settings":
            (place / "payouts.env").write_text(f"{settings}KAFKA_SASL_PASSWORD=p\n", encoding="utf-8")
        elif volume["name"] in ("visa", "kafka"):
            for key in ("tls.crt", "tls.key", "mle.key", "mle-next.key", "client.key", "mle-client.key"):
                (place / key).write_text("x", encoding="utf-8")
                (place / key).chmod(0o440)
