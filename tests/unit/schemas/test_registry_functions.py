"""`payouts schemas check|push|list`: what they report and what they change."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from schemas import catalog, registry
from schemas.registry_client import RegistryUnavailable

from .conftest import FakeRegistry

SUBJECTS = len(catalog.RECORDS)


@pytest.fixture(name="fake")
def _fake(registry: FakeRegistry) -> FakeRegistry:
    return registry


def _incompatible(name: str) -> str:
    schema = json.loads(catalog.schema_text(name))
    schema["fields"].append({"name": "must", "type": "string", "doc": "Required, so old readers cannot."})
    return json.dumps(schema)


def test_a_check_without_a_registry_is_our_lint() -> None:
    report = registry.check_schemas()
    assert (report.findings, report.subjects, report.ok) == ((), (), True)


async def test_push_registers_all_once_under_full_transitive(fake: FakeRegistry) -> None:
    before = await asyncio.to_thread(registry.check_schemas, fake.url)
    assert (before.ok, before.complete, len(before.subjects)) == (True, False, SUBJECTS)
    assert not any(call.startswith("PUT") for call in fake.calls)

    first = await asyncio.to_thread(registry.push_schemas, fake.url)
    assert first.ok
    assert all(subject.registered and subject.level_set for subject in first.pushed)
    assert set(fake.levels.values()) == {"FULL_TRANSITIVE"}
    assert len(fake.levels) == SUBJECTS

    second = await asyncio.to_thread(registry.push_schemas, fake.url)
    assert second.ok
    assert not any(subject.registered or subject.level_set for subject in second.pushed)
    after = await asyncio.to_thread(registry.check_schemas, fake.url)
    assert after.complete


async def test_the_prefix_is_part_of_the_subject(fake: FakeRegistry) -> None:
    await asyncio.to_thread(registry.push_schemas, fake.url, "demo-")
    assert set(fake.subjects) == {f"demo-{topic.topic}-value" for topic in await _states(fake)}


async def _states(fake: FakeRegistry) -> tuple[registry.SubjectState, ...]:
    return await asyncio.to_thread(registry.list_schemas, fake.url)


async def test_an_incompatible_schema_is_reported_and_nothing_at_all_is_pushed(fake: FakeRegistry) -> None:
    """Half a push would leave producers and consumers with contracts that do not match."""
    fake.add("payout_results-value", _incompatible("PayoutResult"))
    report = await asyncio.to_thread(registry.push_schemas, fake.url)
    assert not report.ok
    assert report.pushed == ()
    assert [state.schema for state in report.check.subjects if not state.compatible] == ["PayoutResult"]
    assert list(fake.subjects) == ["payout_results-value"]
    assert fake.levels == {}


async def test_lint_findings_stop_a_push(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "lint", lambda: ["PayoutResult.amount: has no doc"])
    report = await asyncio.to_thread(registry.push_schemas, fake.url)
    assert (report.ok, report.pushed, fake.subjects) == (False, (), {})


async def test_a_wrong_level_is_seen_and_set(fake: FakeRegistry) -> None:
    await asyncio.to_thread(registry.push_schemas, fake.url)
    fake.levels["payout_retry-value"] = "NONE"
    del fake.levels["payout_audit-value"]
    wrong = [state.schema for state in await _states(fake) if not state.level_is_right]
    assert wrong == ["PayoutRetry", "AuditRecord"]
    report = await asyncio.to_thread(registry.push_schemas, fake.url)
    assert [subject.schema for subject in report.pushed if subject.level_set] == wrong
    assert set(fake.levels.values()) == {"FULL_TRANSITIVE"}


async def test_list_shows_versions_and_our_id(fake: FakeRegistry) -> None:
    older = json.loads(catalog.schema_text("PayoutRetry"))
    older["doc"] = "An older text."
    fake.add("payout_retry-value", json.dumps(older))
    number = fake.add("payout_retry-value", catalog.schema_text("PayoutRetry"))
    state = next(state for state in await _states(fake) if state.schema == "PayoutRetry")
    assert (state.versions, state.schema_id, state.registered, state.level) == ((1, 2), number, True, None)
    assert state.topic == "payout_retry"


async def test_a_registry_that_is_away_is_said_to_be(fake: FakeRegistry) -> None:
    fake.answer = web.Response(status=503)
    for work in (registry.check_schemas, registry.push_schemas, registry.list_schemas):
        with pytest.raises(RegistryUnavailable, match="503"):
            await asyncio.to_thread(work, fake.url)
