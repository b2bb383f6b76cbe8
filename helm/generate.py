"""Writes what the chart copies from the code's own tables: `python -m helm.generate`, and nothing by hand.

    files/topics.yaml      topics with settings, readers and writers, from schemas/topics.yaml and the agents
    values.schema.json     from values.schema.in.json and the settings of streams/settings.py

A test compares both with what this would write.
"""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from schemas.topics import TOPICS
from streams.bootstrap import AGENT_TOPICS
from streams.settings import AGENT_NAMES, CONSUMER_GROUP, Settings

CHART: Final = Path(__file__).resolve().parent / "payout-streams"
TOPICS_FILE: Final = CHART / "files" / "topics.yaml"
SCHEMA_FILE: Final = CHART / "values.schema.json"
SCHEMA_SOURCE: Final = CHART / "values.schema.in.json"

CHART_SETS: Final = frozenset(
    {
        "PAYOUTS_HTTP_HOST",
        "PAYOUTS_HTTP_PORT",
        "PAYOUTS_HTTP_PORT_FILE",
        "PAYOUTS_KEYS_DIRECTORY",
        "PAYOUTS_POLICIES_DIRECTORY",
        "PAYOUTS_WORKER_NAME",
    }
)
"""Settings that follow from where the chart puts things: not to be given."""
EXACT_MAX: Final = 2**53
"""Helm reads numbers as floating point: a longer one must be a string, or it would arrive as another."""
_BOUNDS: Final = {
    Ge: ("ge", "minimum"),
    Gt: ("gt", "exclusiveMinimum"),
    Le: ("le", "maximum"),
    Lt: ("lt", "exclusiveMaximum"),
    MinLen: ("min_length", "minLength"),
    MaxLen: ("max_length", "maxLength"),
}


def topics_file() -> str:
    """files/topics.yaml."""
    readers = {topic: [agent for agent in AGENT_NAMES if topic in AGENT_TOPICS[agent]] for topic in TOPICS}
    table = {
        "group": CONSUMER_GROUP,
        "agents": list(AGENT_NAMES),
        "topics": [
            {
                "name": topic.name,
                "partitions": topic.partitions,
                "replicas": topic.replication_factor,
                "config": topic.broker_settings(),
                "inbound": topic.inbound,
                "agents": readers[topic.name],
            }
            for topic in TOPICS.values()
        ],
    }
    return "# Written by `python -m helm.generate` from schemas/topics.yaml. Not to be edited.\n" + yaml.safe_dump(
        table, sort_keys=False, width=120
    )


def schema_file() -> str:
    """values.schema.json: the hand-written part, and one property a setting that may be given."""
    schema = json.loads(SCHEMA_SOURCE.read_text(encoding="utf-8"))
    schema["properties"]["settings"]["properties"] = {
        name: setting_schema(Settings.model_fields[name.lower()]) for name in given_settings()
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def given_settings() -> list[str]:
    """Settings that values may hold: neither secret, nor a file's path, nor set by the chart."""
    return [
        name.upper()
        for name, field in Settings.model_fields.items()
        if name.upper() not in CHART_SETS and not {SecretStr, Path} & set(_types(field.annotation))
    ]


def setting_schema(field: FieldInfo) -> dict[str, Any]:
    """What a value may be, as JSON schema: never laxer than the code's own check."""
    schema: dict[str, Any] = {}
    (kind,) = (kind for kind in _types(field.annotation) if kind is not type(None))
    if get_origin(kind) is Literal:
        schema["enum"] = list(get_args(kind))
    elif isinstance(kind, type) and issubclass(kind, Enum):
        schema["enum"] = [member.value for member in kind]
    else:
        schema["type"] = {bool: "boolean", int: "integer", float: "number"}.get(kind, "string")
    for rule in field.metadata:
        if type(rule) in _BOUNDS:
            attribute, name = _BOUNDS[type(rule)]
            schema[name] = getattr(rule, attribute)
        elif pattern := getattr(rule, "pattern", None):
            schema["pattern"] = pattern
    if schema.get("exclusiveMaximum", schema.get("maximum", 0)) > EXACT_MAX:
        return {"type": "string", "pattern": f"^[0-9]{{1,{len(str(2**63))}}}$"}
    return schema


def _types(annotation: object) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    if get_origin(annotation) is Literal or not get_args(annotation):
        return (annotation,)
    return get_args(annotation)


def main() -> None:
    """Write both files."""
    TOPICS_FILE.write_text(topics_file(), encoding="utf-8")
    SCHEMA_FILE.write_text(schema_file(), encoding="utf-8")


if __name__ == "__main__":
    main()
