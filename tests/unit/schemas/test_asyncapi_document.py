"""The published AsyncAPI document is what the code says, and says of topics, headers and fields what the code does."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas import catalog
from schemas.asyncapi import DEAD_LETTER_HEADERS, EVENT_HEADERS, EVENT_SOURCE, PATH, Header, document, main, text
from schemas.headers import event_headers, event_type
from schemas.topics import TOPICS
from streams import publisher

REPOSITORY = Path(__file__).resolve().parents[3]
GOLDEN = REPOSITORY / "tests" / "contract" / "schemas" / "golden"
DOCUMENT: dict[str, Any] = yaml.safe_load(PATH.read_text("utf-8"))
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]


def test_the_committed_file_is_what_the_generator_says() -> None:
    """E9: after a change of a topic, schema, header or golden record: `make asyncapi`."""
    assert PATH.read_text("utf-8") == text(GOLDEN), "schemas/asyncapi.yaml is not up to date: run `make asyncapi`"


def test_a_stranger_sends_what_is_inbound_and_receives_the_rest() -> None:
    """E2: every topic of the table but the three that only our workers use."""
    operations = {each["channel"]["$ref"].rpartition("/")[2]: each for each in DOCUMENT["operations"].values()}
    assert {name: each["action"] for name, each in operations.items()} == {
        name: "send" if topic.inbound else "receive" for name, topic in TOPICS.items() if not topic.internal
    }
    assert set(TOPICS) - set(operations) == {"payout_validated", "payout_cleared", "payout_retry"}
    assert set(DOCUMENT["channels"]) == set(operations)


@pytest.mark.parametrize("name", sorted(DOCUMENT["channels"]))
def test_bindings_are_the_topic_tables(name: str) -> None:
    """E2: partitions, replicas and retention have one source."""
    topic, binding = TOPICS[name], DOCUMENT["channels"][name]["bindings"]["kafka"]
    assert (binding["topic"], binding["partitions"], binding["replicas"]) == (
        name,
        topic.partitions,
        topic.replication_factor,
    )
    told = {
        key: ",".join(value) if isinstance(value, list) else str(value)
        for key, value in binding["topicConfiguration"].items()
    }
    assert told == topic.broker_settings()


@pytest.mark.parametrize("topic", [topic for topic in TOPICS.values() if topic.schema], ids=lambda topic: topic.name)
def test_payloads_are_the_schema_files(topic: Any) -> None:
    if topic.internal:
        assert topic.schema not in MESSAGES
        return
    payload = MESSAGES[topic.schema]["payload"]
    assert payload["schemaFormat"] == "application/vnd.apache.avro;version=1.9.0"
    assert payload["schema"] == json.loads(catalog.schema_text(topic.schema))
    assert MESSAGES[topic.schema]["examples"], "a stranger learns from examples"


def test_headers_are_those_that_are_written() -> None:
    """K3: nobody has to look into our code for the header that tells a repeat."""
    at = datetime(2025, 11, 3, tzinfo=UTC)
    full = event_headers("x", "/x", at, "c", "00-" + "a" * 32 + "-" + "b" * 16 + "-01", event_id="1", request_id="r")
    least = event_headers("x", "/x", at, None, event_id="1")
    assert list(EVENT_HEADERS) == [name for name, _ in full]
    assert _always(EVENT_HEADERS) == {name for name, _ in least}
    assert EVENT_SOURCE == publisher.EVENT_SOURCE
    types = MESSAGES["PayoutResult"]["headers"]["properties"]["ce_type"]["enum"]
    assert types == [event_type("PayoutResult"), event_type("PayoutResult", "PayoutReturned")]


def test_dead_letters_headers_are_those_that_are_written() -> None:
    """K6: what a sender can read of his own dead letter."""
    code = (REPOSITORY / "streams" / "dead_letters.py").read_text("utf-8")
    written = re.findall(r'^            \("([\w-]+)", ', code, re.MULTILINE)
    assert len(written) > 8
    assert sorted(_always(DEAD_LETTER_HEADERS)) == sorted(written)
    now_and_then = set(re.findall(r'append\(\("(\w+)"|^[A-Z_]+_HEADER = "(\w+)"', code, re.MULTILINE))
    assert {name for pair in now_and_then for name in pair if name} == set(DEAD_LETTER_HEADERS) - set(written)


def test_every_encrypted_field_names_its_plaintext() -> None:
    """P6: what must not travel in clear has a published form, found from the message."""
    assert MESSAGES["PayoutRequest"]["x-plaintexts"] == {
        "encrypted_card": {"$ref": "#/components/schemas/Card"},
        "encrypted_account": {"$ref": "#/components/schemas/Account"},
        "encrypted_wallet": {"$ref": "#/components/schemas/Wallet"},
        "encrypted_alias": {"$ref": "#/components/schemas/Alias"},
        "personal_data": {"$ref": "#/components/schemas/PersonalData"},
    }
    parties = DOCUMENT["components"]["schemas"]["PersonalData"]["properties"]
    assert parties["recipient"]["properties"]["address"]["properties"]["country"]["pattern"] == "^[A-Z]{2}$"
    assert parties["recipient"]["description"] == "Who is paid."
    assert "$defs" not in PATH.read_text("utf-8")


def test_a_record_without_a_golden_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no golden record of PayoutRequest"):
        document(tmp_path)
    assert main([]) == 2


def _always(headers: Any) -> set[str]:
    known: dict[str, Header] = dict(headers)
    return {name for name, header in known.items() if header.always}
