"""The lint sees each thing that it is there for: one violation planted at a time (design 3)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from schemas import catalog
from schemas.lint import SchemaSet, lint, lint_schema, load

RESULT = "PayoutResult"


@pytest.fixture
def schemas() -> Any:
    """A copy that a test may spoil."""
    ours = load()
    return SchemaSet(
        current=copy.deepcopy(dict(ours.current)),
        history=copy.deepcopy(dict(ours.history)),
        pinned=copy.deepcopy(dict(ours.pinned)),
    )


def _field(schema: Any, name: str) -> Any:
    return next(field for field in schema["fields"] if field["name"] == name)


def test_our_schemas_have_no_findings() -> None:
    assert lint() == []


def test_every_record_of_the_contract_is_linted() -> None:
    assert set(load().current) == set(load().history) == set(catalog.RECORDS)


def test_the_current_file_is_the_newest_of_its_history() -> None:
    for name in catalog.RECORDS:
        assert (
            catalog.schema_path(name).read_bytes() == catalog.schema_path(name, catalog.versions(name)[-1]).read_bytes()
        )


def _plant(**field: Any) -> Callable[[Any], None]:
    def change(schema: Any) -> None:
        schema["fields"].append({"doc": "Planted.", **field})

    return change


def _set(name: str, **values: Any) -> Callable[[Any], None]:
    return lambda schema: _field(schema, name).update(values)


DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
NO_DEFAULT = {"type": "enum", "name": "Speed", "doc": "How fast.", "symbols": ["UNSPECIFIED", "FAST"]}
NOT_FIRST = {**NO_DEFAULT, "symbols": ["FAST", "UNSPECIFIED"], "default": "UNSPECIFIED"}
NO_DOC = {"type": "record", "name": "Extra", "fields": []}
FIXED = {"type": "fixed", "name": "Digest", "size": 32}


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_plant(name="score_exact", type="double"), "double is not allowed"),
        (_plant(name="rate", type=["null", "float"], default=None), "float is not allowed"),
        (_plant(name="rates", type={"type": "map", "values": "float"}), "float is not allowed"),
        (_plant(name="total", type=DECIMAL), "not allowed"),
        (_plant(name="digest", type=FIXED), "fixed is not allowed"),
        (_plant(name="paid_at", type=MILLIS), "timestamp-millis"),
        (_plant(name="paid_at", type="long"), "named at or end in _at"),
        (_plant(name="speed", type=NO_DEFAULT), "must begin with UNSPECIFIED"),
        (_plant(name="speed", type=NOT_FIRST), "must begin with UNSPECIFIED"),
        (_plant(name="extra", type=NO_DOC), "type Extra has no doc"),
        (_plant(name="extra", type=["null", "string"]), "must default to null"),
        (_plant(name="extra", type=["null", "string", "long"], default=None), "union"),
        (_plant(name="extra", type=["string", "null"], default="x"), "union"),
        (_plant(name="extra", type="string", default="none"), "no default other than"),
        (_plant(name="extraField", type="string"), "small letters"),
        (_plant(name="extra", type="string", aliases=["more"]), "aliases"),
        (_plant(name="pan", type="string"), "secret data"),
        (_plant(name="card_cvv2", type=["null", "string"], default=None), "secret data"),
        (_plant(name="card_number", type="string"), "secret data"),
        (_plant(name="primary_account_number", type="string"), "secret data"),
        (_plant(name="recipient_name", type="string"), "travels encrypted"),
        (_plant(name="card", type={"type": "string"}), "travels encrypted"),
        (_set("attempts", doc=" "), "attempts: has no doc"),
        (_set("attempts", type="text"), "is no Avro schema"),
        (lambda schema: schema.update(name="Result"), "must be named"),
        (lambda schema: schema.update(namespace="io.other"), "must be named"),
        (lambda schema: schema.update(doc=""), "type PayoutResult has no doc"),
    ],
    ids=range(27),
)
def test_a_planted_violation_is_found(change: Callable[[Any], None], finding: str) -> None:
    schema = json.loads(catalog.schema_text(RESULT))
    change(schema)
    assert any(finding in found for found in lint_schema(RESULT, schema)), lint_schema(RESULT, schema)


def test_what_is_no_record_is_found() -> None:
    assert lint_schema("X", "string") == ["X: is no record"]


def _remove(schema: Any) -> None:
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "attempts"]


def _new_required(schema: Any) -> None:
    schema["fields"].append({"name": "shard", "type": "int", "doc": "New and required."})


def _narrow(schema: Any) -> None:
    _field(schema, "version")["type"] = "int"


def _rename_type(schema: Any) -> None:
    _field(schema, "status")["type"]["name"] = "Status"


def _drop_symbol_and_default(schema: Any) -> None:
    status = _field(schema, "status")["type"]
    status["symbols"].remove("RETURNED")
    del status["default"]


@pytest.mark.parametrize("change", [_remove, _new_required, _narrow, _rename_type, _drop_symbol_and_default])
def test_an_incompatible_change_is_found_with_and_without_a_version(
    change: Callable[[Any], None], schemas: SchemaSet
) -> None:
    """FULL_TRANSITIVE: an old consumer reads new records and a new one reads all."""
    change(schemas.current[RESULT])
    assert any("cannot read what" in found for found in lint(schemas))
    schemas.history[RESULT][2] = copy.deepcopy(schemas.current[RESULT])  # type: ignore[index]
    assert any("cannot read what" in found for found in lint(schemas))


def test_compatibility_is_asked_of_every_version_not_the_last_only(schemas: SchemaSet) -> None:
    """Two harmless steps may add up: optional added, removed, added again with another type."""
    added = copy.deepcopy(schemas.current[RESULT])
    added["fields"].append({"name": "hint", "type": ["null", "string"], "default": None, "doc": "A hint."})
    third = copy.deepcopy(schemas.current[RESULT])
    fourth = copy.deepcopy(third)
    fourth["fields"].append({"name": "hint", "type": ["null", "long"], "default": None, "doc": "A number."})
    schemas.history[RESULT].update({2: added, 3: third, 4: fourth})  # type: ignore[attr-defined]
    schemas.current[RESULT] = fourth  # type: ignore[index]
    found = [finding for finding in lint(schemas) if "cannot read" in finding]
    assert found
    assert all("v2" in finding for finding in found)


def test_a_compatible_change_needs_a_version_and_an_id(schemas: SchemaSet) -> None:
    field = {"name": "hint", "type": ["null", "string"], "default": None, "doc": "A hint."}
    schemas.current[RESULT]["fields"].append(field)
    assert lint(schemas) == [f"{RESULT}: differs from v2 of its history; a change needs v3"]
    schemas.history[RESULT][3] = copy.deepcopy(schemas.current[RESULT])  # type: ignore[index]
    assert lint(schemas) == [f"{RESULT}: v3 has no id in pinned_ids.yaml"]
    schemas.pinned[RESULT][3] = 2_000_000_500  # type: ignore[index]
    assert lint(schemas) == []


def test_a_shared_type_that_differs_is_found(schemas: SchemaSet) -> None:
    _field(schemas.current[RESULT], "amount")["type"]["doc"] = "Another text."
    assert any("type Money differs" in found for found in lint(schemas))


def test_a_record_or_version_that_disappears_is_found(schemas: SchemaSet) -> None:
    del schemas.current[RESULT]  # type: ignore[attr-defined]
    del schemas.history["PayoutRetry"][1]  # type: ignore[attr-defined]
    found = lint(schemas)
    assert f"{RESULT}: was shipped and is gone; records of it may still be replayed" in found
    assert any(finding.startswith("PayoutRetry: the history must hold") for finding in found)


def test_pinned_ids_that_clash_or_lie_outside_their_range_are_found(schemas: SchemaSet) -> None:
    schemas.pinned[RESULT][1] = schemas.pinned["PayoutRetry"][1]  # type: ignore[index]
    schemas.pinned["AuditRecord"][1] = 7  # type: ignore[index]
    schemas.pinned["ReviewCase"][9] = 2_000_000_900  # type: ignore[index]
    found = " ".join(lint(schemas))
    assert "have the same pinned id" in found
    assert "outside the reserved range" in found
    assert "never shipped" in found
