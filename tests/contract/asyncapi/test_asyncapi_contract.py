"""What we publish for strangers, judged by tools that nobody here wrote: AsyncAPI's own parser, and avsc in Node."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas import catalog
from schemas.asyncapi import PATH
from tests.node_projects import ASYNCAPI, EXAMPLES, INSTALL_SECONDS, REPOSITORY, installed

GOLDEN = REPOSITORY / "tests" / "contract" / "schemas" / "golden"
NODE_SECONDS = 120.0
# The first test of a session that needs a project also installs it.
pytestmark = pytest.mark.timeout(INSTALL_SECONDS + 2 * NODE_SECONDS)

DOCUMENT: dict[str, Any] = yaml.safe_load(PATH.read_text("utf-8"))
EXAMPLE_NAMES = [
    (name, example["name"])
    for name, message in DOCUMENT["components"]["messages"].items()
    for example in message.get("examples", ())
]


def _node(script: str, *arguments: str | Path, stdin: str | None = None) -> list[Any]:
    """What a script of this folder prints, a JSON value a line."""
    done = subprocess.run(
        ["node", str(ASYNCAPI / script), *map(str, arguments)],  # noqa: S607
        input=stdin,
        capture_output=True,
        text=True,
        timeout=NODE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _golden(name: str, label: str) -> dict[str, Any]:
    version = catalog.versions(name)[-1]
    label_part = "" if label == name else f".{label}"
    golden: dict[str, Any] = json.loads((GOLDEN / f"{name}.v{version}{label_part}.json").read_text("utf-8"))
    return golden


def test_nodes_avro_writes_the_published_examples_as_the_golden_bytes() -> None:
    """E9: schema, example and bytes are one contract: whoever has the document and avsc writes what we write."""
    project = installed(EXAMPLES)
    asked = []
    for name, label in EXAMPLE_NAMES:
        message = DOCUMENT["components"]["messages"][name]
        record = next(example["payload"] for example in message["examples"] if example["name"] == label)
        schema_id = catalog.pinned_ids()[name, catalog.versions(name)[-1]]
        asked.append({"schema": message["payload"]["schema"], "schema_id": schema_id, "record": record})
    [answers] = _node("encode.mjs", project / "package.json", stdin=json.dumps(asked))
    assert [answer["hex"] for answer in answers] == [_golden(name, label)["hex"] for name, label in EXAMPLE_NAMES]
    assert [answer["record"] for answer in answers] == [question["record"] for question in asked]


def _spoiled() -> list[tuple[dict[str, Any], set[str]]]:
    """The document with two things wrong each, and the codes of what is then said."""
    structure, examples = copy.deepcopy(DOCUMENT), copy.deepcopy(DOCUMENT)
    structure["operations"]["sendPayoutRequest"]["channel"]["$ref"] = "#/channels/nowhere"
    structure["channels"]["payout_results"]["bindings"]["kafka"]["partitions"] = 0
    messages = examples["components"]["messages"]
    messages["PayoutResult"]["examples"][0]["payload"]["amount"]["amount_minor"] = "2500"
    messages["ReviewCase"]["examples"][0]["headers"]["ce_type"] = "something.else"
    return [
        (structure, {"invalid-ref", "asyncapi-document-resolved"}),
        (examples, {"example of PayoutResult payload", "example of ReviewCase headers"}),
    ]


def test_the_official_parser_finds_no_fault(tmp_path: Path) -> None:
    """E9: no error and no warning; and this is no formality: each fault that is planted is seen."""
    installed(ASYNCAPI)
    files = [PATH]
    for number, (spoiled, _) in enumerate(_spoiled()):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(spoiled), "utf-8")
    clean, *faulty = _node("validate.mjs", *files)
    # One piece of information: that there is a newer version of AsyncAPI than 3.0, which most tools read.
    assert [(found["severity"], found["code"]) for found in clean["diagnostics"]] == [
        ("information", "asyncapi-latest-version")
    ]
    assert clean["version"] == "3.0.0"
    assert clean["examples"] == len(EXAMPLE_NAMES)
    assert sorted(clean["send"] + clean["receive"]) == sorted(DOCUMENT["operations"])
    for (_, wanted), said in zip(_spoiled(), faulty, strict=True):
        errors = {found["code"] for found in said["diagnostics"] if found["severity"] == "error"}
        assert wanted <= errors, said
