"""The documents say what is there: links, rules, requirements, settings, codes, targets. Needs no server."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from ops.main import app
from ops.metrics_document import exporter_metrics, scan_file_metrics, worker_metrics
from processors.payout.answers import FROZEN_FOR
from processors.payout.modes import Mode
from processors.payout.row import CompensationState, PayoutState
from schemas import errors
from schemas.topics import TOPICS
from streams.settings import Settings
from tests.docs.documents import (
    DOCUMENTS,
    ROOT,
    Command,
    anchors,
    commands,
    functions,
    links,
    named_tests,
    read,
    section,
    table_rows,
    without_code,
)

RULES = tuple(
    f"{letter}{number}"
    for letter, count in (("L", 12), ("K", 9), ("S", 9), ("C", 4), ("R", 2))
    for number in range(1, count + 1)
)
LATER = ("Pay once", "Prove", "Visa", "Operate", "Ship")
ARCHITECTURE_LINES_MAX = 250
# Of the commands only, not of `Settings`; each is looked for in the code below.
COMMAND_VARIABLES = frozenset(
    {
        "PAYOUTS_SETTINGS_FILE",
        "PAYOUTS_OPERATOR",
        "PAYOUTS_DEBUG",
        "PAYOUTS_LAG_PORT",
        "PAYOUTS_STATE_DIR",
        "PAYOUTS_CACHE_DIR",
    }
)
VARIABLE = re.compile(r"\b(?:PAYOUTS|KAFKA|VISA|DATABASE|SCHEMA_REGISTRY|REQUEST_ID|JWKS)_[A-Z0-9_]+\b")
# Written so that this file does not contain what it looks for.
MACHINE_PATHS = re.compile("|".join(f"/{name}/" for name in ("work", "root", "home", "Users")))
PACKAGE_HOSTS = re.compile(
    "|".join(
        host.replace("_", r"\.")
        for host in ("pypi_org", "pythonhosted_org", "repo1_maven_org", "repo_maven_apache_org", "registry_npmjs_org")
    )
)
TEXT_SUFFIXES = {
    ".md",
    ".py",
    ".toml",
    ".yaml",
    ".yml",
    ".txt",
    ".in",
    ".cfg",
    ".sh",
    ".sha256",
    ".json",
    ".avsc",
    ".mjs",
    "",
}
ALL_COMMANDS = [command for document in ("README.md", "RUNBOOK.md") for command in commands(document)]


@pytest.mark.parametrize("document", [*DOCUMENTS, "examples/README.md", "examples/node/README.md"])
def test_links_lead_somewhere(document: str) -> None:
    """Every relative link names a file that exists, every anchor a heading of it."""
    for target in links(document):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / document).parent / name if name else ROOT / document
        assert file.exists(), f"{document}: {target}"
        if anchor:
            other = str(file.resolve().relative_to(ROOT))
            assert anchor in anchors(other), f"{document}: {target}; there are {sorted(anchors(other))}"


def test_architecture_can_be_read_at_one_sitting() -> None:
    assert len(read("ARCHITECTURE.md").splitlines()) < ARCHITECTURE_LINES_MAX


def test_changelog_has_a_place_for_what_is_next() -> None:
    assert "## Unreleased" in read("CHANGELOG.md")


def _committed() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [file for file in files if file.suffix in TEXT_SUFFIXES and file.is_file()]


def test_no_file_names_this_machine_or_a_package_host() -> None:
    """The repository stands alone: no path of the machine it was written on, no address of a package index."""
    wrong = []
    for file in _committed():
        text = file.read_text(encoding="utf-8", errors="replace")
        wrong += [f"{file.relative_to(ROOT)}: {found[0]}" for found in PACKAGE_HOSTS.finditer(text)]
        if file.suffix == ".md":
            wrong += [f"{file.relative_to(ROOT)}: {found[0]}" for found in MACHINE_PATHS.finditer(text)]
    assert wrong == []


# Rules and requirements.


def test_every_rule_is_there_once_and_in_order() -> None:
    """rules.md: L1 to L12, K1 to K9, S1 to S9, C1 to C4, R1 and R2."""
    headings = re.findall(r"^### ([LKSCR]\d+) ", read("docs/rules.md"), re.MULTILINE)
    assert tuple(headings) == RULES


def test_every_rule_says_how_far_it_is_kept_and_what_proves_it() -> None:
    """A rule without a proving test names the work that brings it, by its title."""
    parts = re.split(r"^### ([LKSCR]\d+) .*$", read("docs/rules.md"), flags=re.MULTILINE)
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        body = re.split(r"^## ", text, flags=re.MULTILINE)[0]
        assert "- Today: " in body, name
        proof = " ".join(body.partition("- Proof: ")[2].split())
        coming = re.search(r"comes? with: (.+)", proof)
        assert named_tests(proof) or coming, name
        if coming:
            assert any(title in coming[1] for title in LATER), f"{name}: {coming[1]}"


@pytest.mark.parametrize(
    "document", ["docs/rules.md", "docs/failures.md", "docs/requirements.md", "ARCHITECTURE.md", "CHANGELOG.md"]
)
def test_every_test_that_is_named_exists(document: str) -> None:
    missing = [f"{path}::{name}" for path, name in named_tests(read(document)) if name not in functions(path)]
    assert missing == []


def _paths_named(document: str) -> list[str]:
    return re.findall(
        r"`((?:tests|docs|sandbox|schemas|bench|examples|policies|processors|streams)/[\w./*-]+)`", read(document)
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_is_named_exists(document: str) -> None:
    missing = [path for path in _paths_named(document) if not (ROOT / path).exists() and not list(ROOT.glob(path))]
    missing = [path for path in missing if not (ROOT / f"{path}.py").exists()]
    assert missing == []


def test_every_requirement_is_there_once_with_its_proof() -> None:
    """The whole checklist S0-01 … S4-38, B1 … B13, E1 … E9, F-01 … F-17, each with a test or a title."""
    counts = (("S0-", 49), ("S1-", 32), ("S2-", 32), ("S3-", 38), ("S4-", 38), ("F-", 17))
    wanted = [f"{family}{number:02}" for family, count in counts for number in range(1, count + 1)]
    wanted += [f"B{number}" for number in range(1, 14)] + [f"E{number}" for number in range(1, 10)]
    rows = [row for row in table_rows(read("docs/requirements.md")) if re.fullmatch(r"(S\d-|F-)\d\d|[BE]\d+", row[0])]
    assert sorted(row[0] for row in rows) == sorted(wanted)
    for name, line, proof in rows:
        assert line, name
        assert named_tests(proof) or any(title in proof for title in (*LATER, "not built", "RUNBOOK.md")), (
            f"{name}: {proof}"
        )


# Settings.


def _settings_of_the_runbook() -> dict[str, str]:
    rows = table_rows(section("RUNBOOK.md", "Settings"))
    return {row[0].strip("`"): row[1].strip("`") for row in rows if row[0].startswith("`")}


def test_the_settings_table_is_the_code() -> None:
    """B11: every setting of the code is in the table, and nothing else."""
    documented = set(_settings_of_the_runbook())
    assert documented == {name.upper() for name in Settings.model_fields} | COMMAND_VARIABLES


def test_documented_defaults_are_the_defaults() -> None:
    fields = Settings.model_fields
    for name, documented in _settings_of_the_runbook().items():
        if name in COMMAND_VARIABLES:
            continue
        default = fields[name.lower()].default
        if isinstance(default, int) or (isinstance(default, str) and default and "://" not in default):
            assert documented == str(default), name


def test_every_variable_in_a_document_is_read_by_the_code() -> None:
    known = {name.upper() for name in Settings.model_fields} | COMMAND_VARIABLES
    for document in DOCUMENTS:
        unknown = set(VARIABLE.findall(read(document))) - known
        assert unknown == set(), document
    code = "\n".join(
        file.read_text(encoding="utf-8")
        for room in ("ops", "sandbox", "streams")
        for file in (ROOT / room).rglob("*.py")
    )
    for name in COMMAND_VARIABLES:
        assert f'"{name}"' in code, name


# Words that the runbook explains, and the code uses.


def test_the_runbook_knows_every_topic_state_and_mode_that_it_names() -> None:
    text = read("RUNBOOK.md")
    named_topics = set(re.findall(r"\bpayout_[a-z_]+\b", text)) - {"payout_id", "payout_ids", "payout_identity_numbers"}
    metrics = {name for name in named_topics if any(one.startswith(name) for one in METRICS)}
    assert named_topics - metrics <= set(TOPICS)
    life = section("RUNBOOK.md", "One payout's life")
    shown = {word.strip() for row in table_rows(life) for word in row[0].split(",")}
    assert {state.value for state in PayoutState} <= shown
    waiting = section("RUNBOOK.md", "Compensation waits")
    assert all(state.value in waiting for state in CompensationState if state is not CompensationState.NONE)
    assert all(f"modes set {mode.value}" in text for mode in Mode)


def test_every_hold_reason_of_the_code_is_explained() -> None:
    held = section("RUNBOOK.md", "Payouts unknown or held")
    answers = (ROOT / "processors/payout/answers.py").read_text(encoding="utf-8")
    outcome = (ROOT / "processors/visa/outcome.py").read_text(encoding="utf-8")
    operators = (ROOT / "processors/payout/operator_actions.py").read_text(encoding="utf-8")
    accounts = (ROOT / "processors/payout/account_answers.py").read_text(encoding="utf-8")
    account_outcome = (ROOT / "processors/visa/account_outcome.py").read_text(encoding="utf-8")
    words = operators + accounts + (ROOT / "processors/payout/row.py").read_text(encoding="utf-8")
    by_name = dict(re.findall(r'^([A-Z_]+)(?:: Final)? = "([A-Z_]+)"$', words, re.MULTILINE))
    named = {by_name[name] for name in re.findall(r"hold_reason\"?[=:] ?([A-Z_]+)\b", operators)}
    named |= {by_name[name] for name in re.findall(r"hold_reason=([A-Z_]+)\b", accounts)}
    named |= {"ACCOUNT_RAIL_NOT_CONFIGURED"}  # what a worker without the setting makes of a question
    assert {"RESOLUTION_PROPOSED", "RESOLUTION_UNDONE", "LEDGER_RESTORED", "CONTRADICTED_AFTER_PAID"} <= named
    reasons = named | set(re.findall(r'hold_reason="(\w+)"', answers)) | set(re.findall(r'OPERATOR, "(\w+)"', outcome))
    reasons |= set(re.findall(r'OPERATOR, "(\w+)"', account_outcome))
    reasons |= set(re.findall(r'"(\w+_MISMATCH)"', outcome + account_outcome)) | FROZEN_FOR
    assert len(reasons) > 5
    assert {reason for reason in reasons if reason not in held} == set()


def test_every_reason_for_a_manual_compensation_is_explained() -> None:
    """C2: a person who reads MANUAL must know whether money may be handed back."""
    waiting = section("RUNBOOK.md", "Compensation waits")
    rooms = (
        "processors/compensation/determine.py",
        "processors/payout/next_step.py",
        "processors/payout/state_machine.py",
    )
    code = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in rooms)
    reasons = set(re.findall(r'_manual\("(\w+)"\)|compensation_reason_code="(\w+)"', code))
    named = {word for pair in reasons for word in pair if word} | FROZEN_FOR
    assert len(named) > 4
    assert {reason for reason in named if reason not in waiting} == set()


def test_every_dead_letter_code_is_explained() -> None:
    letters = section("RUNBOOK.md", "Dead letters")
    rooms = ("streams/handlers.py", "streams/intake.py")
    code = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in rooms)
    reasons = set(re.findall(r'set_aside\(\s*record, "(\w+)"', code)) | set(re.findall(r'return "(\w+)", f?"', code))
    reasons |= {
        kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Undecodable)
    }
    assert "KEY_IS_NOT_PAYOUT_ID" in reasons
    assert {reason for reason in reasons - {"UNDECODABLE"} if reason not in letters} == set()


# Whatever its first word, a metric's last word tells that it is one.
METRICS = {one.name for one in (*worker_metrics(), *exporter_metrics(), *scan_file_metrics())}
METRIC_LIKE = re.compile(
    r"`([a-z0-9]+(?:_[a-z0-9]+)*_(?:total|seconds|ratio|bytes|paused|waiting|allowed|scan_results|breaker_state))[`{]"
)


def test_every_metric_that_is_named_exists() -> None:
    """A name in the runbook that nothing shows sends somebody looking for nothing at 3 a.m."""
    exposed = METRICS | {f"{name}_{end}" for name in METRICS for end in ("bucket", "count")}
    for document in ("RUNBOOK.md", "docs/rules.md", "README.md"):
        named = set(re.findall(r"`((?:payouts|kafka)_[a-z_]+)[`{]", read(document)))
        named |= set(re.findall(METRIC_LIKE, read(document)))
        assert named <= exposed, document


# Commands.


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=str)
def test_commands_can_be_parsed(command: Command) -> None:
    """Also those that are not executed: known words, known options, known targets."""
    words = shlex.split(command.text)
    match words[0]:
        case "payouts":
            _check_our_command(words[1:])
        case "make":
            assert _make_words(words[1:]) <= _make_targets() | _make_variables(), command
        case "docker":
            assert words[1:4] == ["compose", "-f", "docker-compose.kafka.yml"]
            assert (ROOT / words[3]).exists()
        case "helm" | "kubectl":
            # What they name is compared with the chart in tests/chart/test_chart_documents.py.
            assert command.not_executed == "needs a Kubernetes cluster"
        case program:
            known = {
                "psql",
                "curl",
                "openssl",
                "kill",
                "install",
                "kafka-consumer-groups.sh",
                "kafka-topics.sh",
                "kafka-get-offsets.sh",
                "amtool",
            }
            assert program in known


def _make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def _make_variables() -> set[str]:
    """Those that may be given, each with its equals sign."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return {f"{name}=" for name in re.findall(r"^([A-Z]+) \?= ", makefile, re.MULTILINE)}


def _make_words(words: list[str]) -> set[str]:
    """Targets as they are, variables without their values."""
    return {f"{word.partition('=')[0]}=" if "=" in word else word for word in words}


def _check_our_command(words: list[str]) -> None:
    """Walk the command tree as the program does; an unknown word or option fails."""
    command = get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    assert used <= options | {"--help"}, f"{sorted(used - options)} of {command.name}"


def test_the_runbook_covers_every_command() -> None:
    """Each noun of `payouts --help` is used by at least one procedure."""
    used = {shlex.split(command.text)[1] for command in commands("RUNBOOK.md") if command.text.startswith("payouts ")}
    prose = set(re.findall(r"`payouts ([a-z]+)", without_code(read("RUNBOOK.md"))))
    assert set(get_command(app).commands) <= used | prose  # type: ignore[attr-defined]


PROCEDURES = frozenset(
    """First look|Stop all money|One payout's life|Payouts unknown or held|Frozen after an unpaid end
    Resolve by two people|Was anybody paid twice?|Hold, release, cancel|Review queue|Compensation waits|Dead letters
    Refusals|Is every request accounted for?|Does everything agree?|High error rate|Lag|Move offsets
    Worker keeps ending|Database away|The database itself|Failover to a standby|Disk full
    Database restored from a copy|Broker away|Registry away
    Visa refuses our credentials|Visa away or slow|Card number where none may be|Audit|Security incident|Scaling
    Service down|Payouts are slow|Payout came back|Screening|Alerts themselves
    Backup and restore|Certificates|Message encryption keys|Visa's key set|After an incident""".replace("\n", "|")
    .replace("    ", "")
    .split("|")
)
"""What an operator is owed: the ten procedures of Kafka's operators, and those of payments. None may go by mistake."""


def test_every_procedure_says_what_it_means_in_money() -> None:
    """S0-43, S0-47, S1-29: every incident entry has all its parts; one without the money is a note, no procedure."""
    parts = re.split(r"^## +(.+)$", read("RUNBOOK.md"), flags=re.MULTILINE)
    found = {}
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        if "**Symptom.**" in text:
            found[heading] = [part for part in ("Money", "Verify", "Escalate") if f"**{part}.**" not in text]
            found[heading] += [] if "```console" in text else ["first look"]
            found[heading] += [] if table_rows(without_code(text)) else ["table to decide by"]
    assert {heading: missing for heading, missing in found.items() if missing} == {}
    assert set(found) >= PROCEDURES
