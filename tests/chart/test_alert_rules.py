"""The rules that ship are the rules that are tested: promtool's verdict, a case for and against each, an entry to read.

What is under test is `helm/payout-streams/files/rules`, the very files that the chart puts into its PrometheusRule.
promtool comes with Debian's `prometheus`; nothing of it runs as a service.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from processors.reconciliation.exception_kinds import MONEY_AT_RISK
from tests.chart.exposed import OF_THE_SCRAPER, exposed, grouping, names, unknown_parts
from tests.docs.documents import ROOT, anchors, read, section, table_rows
from tests.promtool import NEEDS_PROMTOOL, PROMTOOL

RULES = ROOT / "helm/payout-streams/files/rules"
CASES = Path(__file__).parent / "rules"
RUNBOOK_URL = "https://runbooks.example/payout-streams/RUNBOOK.md#"
PROMTOOL_SECONDS_MAX = 110.0
"""Some seconds on an idle core."""

# Requirements E7: what it names -> the alert and severity here. Numbers as Part F settles them.
E7 = {
    "PayoutServiceDown up==0 1m (S0-31)": ("PayoutServiceDown", "critical"),
    "HighPayoutErrorRate > 0.05 2m (S0-32, S4-13)": ("HighPayoutErrorRate", "critical"),
    "emergency above 10 % (S1-24, F-02)": ("PayoutErrorRateEmergency", "critical"),
    "JWKSCircuitBreakerOpen 5m (S0-11, S0-33)": ("JWKSCircuitBreakerOpen", "critical"),
    "breaker warns at once (F-04)": ("JWKSCircuitBreakerOpen", "warning"),
    "VisaConnectionErrors > 10 in a minute (S4-14)": ("VisaConnectionErrors", "critical"),
    "PoolExhausted (S4-15)": ("PoolExhausted", "critical"),
    "HealthCheckFailing (S4-16)": ("HealthCheckFailing", "critical"),
    "CertificateExpiring < 30 d (S1-24)": ("CertificateExpiring", "critical"),
    "CertificateExpiring < 60 d (S1-25)": ("CertificateExpiring", "warning"),
    "JWKSFetchFailures (S1-24)": ("JWKSFetchFailures", "critical"),
    "CompensationFailed > 0 (C1)": ("CompensationFailed", "critical"),
    "CompensationAftWindow > 20 h (C3)": ("CompensationAftWindow", "critical"),
    "DuplicateSubmission: an approval after an unpaid end": ("PaidAfterUnpaidEnd", "critical"),
    "PiiDetected > 0 (S0)": ("PiiDetected", "critical"),
    "DlqSendFailure > 0 1m (C1)": ("DlqSendFailure", "critical"),
    "ConsumerLag > 10000 5m (C1, F-07)": ("ConsumerLag", "critical"),
    "ConsumerLag > 1000 5m (S3-21, F-07)": ("ConsumerLag", "warning"),
    "AuditWriteFailure": ("AuditWriteFailure", "critical"),
    "JWKSHighFailureRate > 0.1/s 2m (S0-12, S0-34)": ("JWKSHighFailureRate", "warning"),
    "HighPayoutLatency p95 > 5 s 5m (S0-35, F-03)": ("HighPayoutLatency", "warning"),
    "end to end p95 > 30 s (S4-17, F-03)": ("EndToEndLatencyHigh", "warning"),
    "validation, compliance p95 > 0.5 s (S3-19, F-03)": ("ValidationComplianceLatency", "warning"),
    "HighComplianceDenialRate > 0.1 5m (S0-36)": ("HighComplianceDenialRate", "warning"),
    "RetryBudgetExhaustion > 0.01/s 2m (S0-37)": ("RetryBudgetExhaustion", "warning"),
    "ElevatedRetryRate > 0.2 10m (S1-25)": ("ElevatedRetryRate", "warning"),
    "CacheMissIncrease (S1-25): by fetches, there is no rate of hits": ("CacheMissIncrease", "warning"),
    "VisaCircuitBreakerOpen at once (S4-19, F-04)": ("VisaCircuitBreakerOpen", "warning"),
    "VisaCircuitBreakerOpen after 5m (S4-19, F-04)": ("VisaCircuitBreakerOpen", "critical"),
    "ReconciliationUnmatched > 10 (S4-18)": ("ReconciliationUnmatched", "warning"),
    "ReconciliationNotRun > 26 h": ("ReconciliationNotRun", "warning"),
    "ReconciliationNotRun: not even once": ("ReconciliationNeverRun", "warning"),
    "PayoutsStuck > 0 5m (S4-26)": ("PayoutsStuck", "warning"),
    "SuccessRate < 0.995 (S3-18)": ("SuccessRate", "warning"),
    "InternalErrorRate > 0.001 (S3-20)": ("InternalErrorRate", "warning"),
    "DuplicateRate > 0.05 10m (C2)": ("DuplicateRate", "warning"),
    "DuplicateRate > 0.10 5m (C2)": ("DuplicateRate", "critical"),
    "DedupErrors > 1/s 5m (C2)": ("DedupErrors", "warning"),
    "manual review backlog": ("ManualReviewBacklog", "warning"),
    "manual review SLA": ("ManualReviewOverdue", "warning"),
    "DlqRate > 5/s 15m (C1)": ("DlqRate", "warning"),
    "parked > 100 30m (C1)": ("DlqParkedMany", "warning"),
    "parked > 500 5m (C1)": ("DlqParkedMany", "critical"),
    "ModeNotNormal > 1 h": ("ModeNotNormal", "warning"),
    "MemoryHigh": ("MemoryHigh", "warning"),
    "many compensations (S0-30)": ("CompensationSpike", "warning"),
    "manual compensations, for ever visible (S0-29)": ("CompensationManual", "warning"),
}


@dataclass(frozen=True)
class Alert:
    """One alerting rule."""

    name: str
    severity: str
    rule: dict[str, Any]

    @property
    def text(self) -> dict[str, str]:
        """Its annotations."""
        return dict(self.rule["annotations"])

    @property
    def anchor(self) -> str:
        """Where the runbook has its entry."""
        assert self.text["runbook_url"].startswith(RUNBOOK_URL), self
        return self.text["runbook_url"].removeprefix(RUNBOOK_URL)

    def __str__(self) -> str:
        return f"{self.name} {self.severity}"


@dataclass(frozen=True)
class Case:
    """What a test file says of one alert in one block."""

    file: str
    title: str
    alert: tuple[str, str]
    fires: bool
    series: frozenset[str]


def _loaded(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


@cache
def rules() -> tuple[tuple[str, dict[str, Any]], ...]:
    """(file, rule) of everything that ships."""
    found = []
    for path in sorted(RULES.glob("*.yaml")):
        for group in _loaded(path)["groups"]:
            found += [(path.name, rule) for rule in group["rules"]]
    return tuple(found)


@cache
def alerts() -> tuple[Alert, ...]:
    """Every alert."""
    return tuple(Alert(rule["alert"], rule["labels"]["severity"], rule) for _, rule in rules() if "alert" in rule)


def recorded() -> dict[str, str]:
    """Recording rules by name."""
    return {rule["record"]: rule["expr"] for _, rule in rules() if "record" in rule}


@cache
def cases() -> tuple[Case, ...]:
    """Every expectation of every test file."""
    found = []
    for path in sorted(CASES.glob("*.test.yaml")):
        for block in _loaded(path)["tests"]:
            series = frozenset(re.split(r"[{ ]", one["series"])[0] for one in block["input_series"])
            for test in block.get("promql_expr_test", ()):
                named = re.search(r'ALERTS\{alertname="(\w+)", severity="(\w+)", alertstate="firing"\}', test["expr"])
                assert named, test["expr"]
                alert = (named[1], named[2])
                found.append(Case(path.name, block["name"], alert, bool(test["exp_samples"]), series))
    return tuple(found)


def metrics_of(alert: Alert) -> set[str]:
    """Those that its expression needs, recording rules followed."""
    asked = names(alert.rule["expr"])
    while known := asked & recorded().keys():
        asked = (asked - known).union(*(names(recorded()[name]) for name in known))
    return asked


def promtool(*arguments: str) -> str:
    """What it says; the test fails with it when it says no."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *arguments], capture_output=True, text=True, timeout=PROMTOOL_SECONDS_MAX, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# promtool's verdict.


@NEEDS_PROMTOOL
def test_promtool_accepts_every_rule() -> None:
    """E7: expressions parse, templates can be filled in, nothing is there twice."""
    said = promtool("check", "rules", *(str(path) for path in sorted(RULES.glob("*.yaml"))))
    found = sum(int(number) for number in re.findall(r"SUCCESS: (\d+) rules found", said))
    assert found == len(rules())


@NEEDS_PROMTOOL
@pytest.mark.parametrize("path", sorted(CASES.glob("*.test.yaml")), ids=lambda path: path.name)
def test_every_alert_fires_where_it_must_and_nowhere_else(path: Path) -> None:
    """E7, S0-11, S0-12, S0-29 to S0-37, S1-24, S1-25, S4-13 to S4-19, F-02 to F-04, F-07: at their thresholds.

    Seen red: each comparison and each `for` was changed by a fifth in a copy, both ways. Of 350 changes 22 were not
    noticed: guards against low volume ("more than 3"), and comparisons of whole numbers for which a fifth is nothing.
    """
    promtool("test", "rules", str(path))


# Completeness of the cases.


def test_every_alert_has_a_case_that_fires_and_one_that_stays_silent() -> None:
    wanted = {(alert.name, alert.severity) for alert in alerts()}
    assert {case.alert for case in cases() if case.fires} == wanted
    assert {case.alert for case in cases() if not case.fires} == wanted


def test_silence_is_shown_beside_the_metrics_and_not_without_them() -> None:
    """A case without the series that an alert reads is silent whatever the rule says."""
    for alert in alerts():
        silent = [case for case in cases() if case.alert == (alert.name, alert.severity) and not case.fires]
        asked = metrics_of(alert)
        assert any(asked <= case.series for case in silent), f"{alert}: needs {sorted(asked)}"


def test_every_alert_of_the_requirements_is_there() -> None:
    """E7, S1-24, S1-25."""
    there = {(alert.name, alert.severity) for alert in alerts()}
    assert {line: alert for line, alert in E7.items() if alert not in there} == {}


# Names, labels, words.


def _kept(alert: Alert) -> set[str]:
    """The labels that its series may have: those of its aggregations, or all of a metric that is not aggregated."""
    asked = [alert.rule["expr"], *(recorded()[name] for name in names(alert.rule["expr"]) & recorded().keys())]
    kept = set().union(*(grouping(expression) for expression in asked))
    return kept or OF_THE_SCRAPER.union(*(exposed()[name].labels for name in metrics_of(alert)))


def test_names_and_labels_are_consistent() -> None:
    """A severity is a page or a ticket; of one name are at most two, one of each."""
    keys = [(alert.name, alert.severity) for alert in alerts()]
    assert len(set(keys)) == len(keys)
    for alert in alerts():
        assert re.fullmatch(r"([A-Z]+[a-z]+)+", alert.name) or alert.name.startswith("JWKS"), alert
        assert alert.rule["labels"] == {"severity": alert.severity}, alert
        assert alert.severity in {"critical", "warning"}, alert
        assert set(alert.rule) <= {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}, alert
        assert set(alert.text) == {"summary", "description", "runbook_url"}, alert
    for name, _ in recorded().items():
        assert re.fullmatch(r"[a-z_]+:[a-z_0-9]+:[a-z_0-9]+", name), name


def test_a_recording_rule_is_used_and_stands_before_its_use() -> None:
    """What nobody asks for is no rule; what is used is recorded in the same file, before it."""
    used = {name for _, rule in rules() for name in names(rule["expr"])}
    assert used >= set(recorded()) != set()
    seen: set[tuple[str, str]] = set()
    for file, rule in rules():
        for name in names(rule["expr"]) & recorded().keys():
            assert (str(file), name) in seen, f"{name} is used in {file} before it is recorded"
        if "record" in rule:
            seen.add((str(file), rule["record"]))


@pytest.mark.parametrize("alert", alerts(), ids=str)
def test_an_alert_says_what_it_means_in_money_and_what_to_do_first(alert: Alert) -> None:
    """Whoever is woken reads three sentences: what, what it means for money, the first command."""
    summary, description = alert.text["summary"], alert.text["description"]
    assert re.fullmatch(r"[A-Z][^{}]+\.", summary), summary
    assert "First: " in description, description
    assert description.rstrip().endswith((".", "?")), description
    money = r"money|paid|unpaid|pay|lost|fund|hand-back|handed back|payout|refund|recipient"
    assert re.search(money, description + summary), description
    used = re.findall(r"\$labels\.(\w+)", description)
    for label in used:
        assert label in _kept(alert), f"{alert}: {label} is not kept"


# The runbook.


@cache
def _entries() -> dict[str, str]:
    """Text of each section of the runbook by its anchor."""
    headings = re.findall(r"^## +(.+)$", read("RUNBOOK.md"), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-"): heading for heading in headings}
    return {slug: section("RUNBOOK.md", heading) for slug, heading in slugs.items()}


@pytest.mark.parametrize("alert", alerts(), ids=str)
def test_every_alert_leads_to_an_entry_that_names_it(alert: Alert) -> None:
    """S0-01: `runbook_url` is an anchor that exists, and the entry there is about this alert."""
    assert alert.anchor in anchors("RUNBOOK.md")
    assert f"`{alert.name}`" in _entries()[alert.anchor]


@pytest.mark.parametrize("anchor", sorted({alert.anchor for alert in alerts()}))
def test_an_entry_that_an_alert_leads_to_has_all_its_parts(anchor: str) -> None:
    """Symptom, impact in money, first look, decision table, action, verification, escalation."""
    entry = _entries()[anchor]
    for part in ("**Symptom.**", "**Money.**", "```console\n$ ", "**Verify.**", "**Escalate.**"):
        assert part in entry, part
    headings = [
        row for row in table_rows(entry) if {"do", "next", "then", "what to do", "decide with", "go to"} & set(row)
    ]
    assert headings or "**Act" in entry, "no decision table"


def test_the_runbooks_table_of_alerts_is_the_rules() -> None:
    """S1-29: names, severities and entries, nothing more and nothing less."""
    rows = [row for row in table_rows(section("RUNBOOK.md", "Alerts")) if row[0].startswith("`")]
    written = set()
    for name, severity, _, entry in rows:
        link = re.search(r"\(#([\w-]+)\)", entry)
        assert link, entry
        written.add((name.strip("`"), severity, link[1]))
    assert written == {(alert.name, alert.severity, alert.anchor) for alert in alerts()}
    assert len(rows) == len(alerts())


# The metrics.


@pytest.mark.parametrize("rule", [rule for _, rule in rules()], ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_what_the_code_shows(rule: dict[str, Any]) -> None:
    """Names, labels, and the values of labels that are known before anything has happened: none is invented."""
    assert unknown_parts(rule["expr"], recorded()) == []


def test_an_invented_metric_is_found() -> None:
    """The check above can fail: a name, a label, a value and a grouping that nobody shows."""
    assert unknown_parts("sum(rate(payouts_invented_total[5m])) > 0") == ["payouts_invented_total"]
    assert unknown_parts('payout_mode{modus="halted"} == 1') == ["payout_mode{modus}"]
    assert unknown_parts('payout_mode{mode=~"normal|.*"} > sum by (lane) (up)') == ["by (lane)"]
    assert unknown_parts('pii_redactions_total{kind="CADR"} > 0') == ['pii_redactions_total{kind="CADR"}']


def test_every_kind_of_exception_that_puts_money_at_risk_wakes_somebody() -> None:
    """E7: the rule has the kinds of `exception_kinds.py`, no other and none missing."""
    (rule,) = [alert.rule["expr"] for alert in alerts() if alert.name == "ReconciliationMoneyAtRisk"]
    listed = re.search(r'\{type=~"([A-Z_|]+)"\}', rule)
    assert listed
    assert sorted(listed[1].split("|")) == sorted(MONEY_AT_RISK)


def test_memory_alerts_before_the_limit() -> None:
    """MemoryHigh is three quarters of what the chart gives a worker."""
    values = ROOT / "helm/payout-streams/values.yaml"
    limit = yaml.safe_load(values.read_text())["resources"]["limits"]["memory"]
    (high,) = [alert.rule["expr"] for alert in alerts() if alert.name == "MemoryHigh"]
    mebibytes = re.search(r"> (\d+) \* 1024 \* 1024", high)
    assert mebibytes
    assert limit == f"{int(mebibytes[1]) * 4 // 3}Mi"
