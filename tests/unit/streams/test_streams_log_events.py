"""B10: the log events that RUNBOOK.md publishes are those of the code, and name the payout that they speak of."""

from __future__ import annotations

import ast
import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from processors.visa.identity import Operation
from streams import visa_calls
from streams.visa_client import ReloadResult
from tests.unit.streams.streams_world import World

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"`([^`]+)`")
LEVELS = ("info", "warning", "error", "critical", "log")
RELOADED = "transport.reload.{}"


def published() -> dict[str, set[str]]:
    """Each event of the table in RUNBOOK.md, and the names that it carries."""
    lines = (ROOT / "RUNBOOK.md").read_text("utf-8").splitlines()
    begin = lines.index("| log event | carries |") + 2
    events: dict[str, set[str]] = {}
    for line in lines[begin : lines.index("", begin)]:
        shown, carried = line.strip("|").split(" | ")
        first, *rest = NAMED.findall(shown)
        family = first.rpartition(".")[0]
        for event in (first, *(f"{family}{name}" if name.startswith(".") else name for name in rest)):
            events[event] = set(NAMED.findall(carried))
    return events


def logged() -> Mapping[str, list[set[str]]]:
    """Each message that the product logs, with the names of each place that does so."""
    found: dict[str, list[set[str]]] = defaultdict(list)
    for room in ("processors", "streams"):
        for file in (ROOT / room).rglob("*.py"):
            tree = ast.parse(file.read_text("utf-8"))
            texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
                if isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS:
                    for message in _messages(call, texts):
                        found[message].append(_names(call))
    return found


def _messages(call: ast.Call, texts: set[object]) -> list[str]:
    """What a call may say: its text; where that is chosen elsewhere in the module, any text of it."""
    position = 1 if isinstance(call.func, ast.Attribute) and call.func.attr == "log" else 0
    if len(call.args) <= position:
        return []
    said = call.args[position]
    if isinstance(said, ast.Constant):
        return [str(said.value)]
    if isinstance(said, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in said.values]
        return ["".join(map(str, parts))]
    return [text for text in texts if isinstance(text, str)]


def _names(call: ast.Call) -> set[str]:
    extras = [keyword.value for keyword in call.keywords if keyword.arg == "extra"]
    keys = [key for extra in extras if isinstance(extra, ast.Dict) for key in extra.keys]
    return {str(key.value) for key in keys if isinstance(key, ast.Constant)}


def test_b10_the_published_log_events_are_what_the_code_says() -> None:
    """B10: whoever searches or alerts by an event finds it, with everything that is promised, at each of its places."""
    code, results = logged(), {RELOADED.format(result) for result in ReloadResult}
    events = published()
    assert results < set(events), "every end of a reload is published"
    for event, names in events.items():
        places = code[RELOADED if event in results else event]
        assert places, f"nothing logs {event!r}"
        assert all(names <= carried for carried in places), (event, places)


async def test_b10_one_payouts_events_carry_its_ids(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """B10, S1-03: a call whose reply is lost, the question, and each step between: by these ids all of it is found."""
    caplog.set_level(logging.INFO)
    world.visa.script[Operation.PUSH_FUNDS] = [world.visa.silent_after_effect]
    await world.ask("payout-0001", correlation_id="order-17")
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"
    lines = {event: [one.__dict__ for one in caplog.records if one.message == event] for event in published()}
    moved, calls = lines["payout moved"], lines["visa call"]
    for line in (*moved, *calls):
        assert (line["payout_id"], line["correlation_id"]) == ("payout-0001", "order-17")
    history = [entry.transition for entry in await world.model.history("payout-0001")]
    assert [line["transition"] for line in moved] == history[-len(moved) :]
    assert [line["call"] for line in calls] == ["PUSH", "QUERY"]
    assert [line["outcome"] for line in calls] == ["UNKNOWN", "PAID"]
    assert {line["request_id"] for line in calls} == {request.correlation_id for request in world.visa.requests}
    assert {event for event, found in lines.items() if found} == {"payout moved", "visa call"}
    for event, names in published().items():
        assert all(names <= set(line) for line in lines[event]), event


async def test_s2_24_a_slow_call_is_told_by_itself(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S2-24: with its payout and its seconds, besides the line that every call has; a quick one is not."""
    caplog.set_level(logging.INFO)
    await world.ask("payout-0001")
    await world.settle()
    assert "slow call" not in caplog.messages
    monkeypatch.setattr(visa_calls, "SLOW_CALL_SECONDS", 0.0)
    await world.ask("payout-0002")
    await world.settle()
    (slow,) = [one for one in caplog.records if one.message == "slow call"]
    told = slow.__dict__
    assert (told["payout_id"], told["call"], slow.levelname) == ("payout-0002", "PUSH", "WARNING")
    assert told["seconds"] >= 0
    assert caplog.messages.count("visa call") == 2
