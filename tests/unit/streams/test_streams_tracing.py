"""S3-37, B10, P6, K2: a payout is one tree of spans, whatever happens to it; nobody's data is in it; nothing waits."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode

from processors.payout.trace import attempt_span_id, event_span_id
from processors.pii.find import find
from processors.pii.hits import Kind as PiiKind
from processors.pii.redaction import NAME_NOT_ALLOWED
from processors.visa.identity import Operation
from schemas.headers import header_text
from schemas.trace_context import derived_trace_id
from streams import opentelemetry_spans
from streams.logs import WITHHELD, JsonFormatter
from streams.metrics import Metrics
from streams.opentelemetry_spans import SpanRecorder, close_recorder
from streams.settings import Profile, Settings
from streams.telemetry import ATTRIBUTES, ERROR_TYPE, EVENTS
from streams.tracing import NO_SPAN, FinishedSpan, Tracing, current_span, open_span
from tests.unit.streams.span_trees import (
    Spans,
    Tree,
    attributes,
    events,
    links,
    record_spans,
    span_id,
    trace_id,
    transitions,
)
from tests.unit.streams.streams_world import (
    ACCOUNT_NUMBER,
    RECIPIENT_CARD,
    REQUESTS,
    SENDER_CARD,
    World,
    approved,
    refused,
)

ROOT = Path(__file__).parents[3]
NAME = "payout-0001"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CALLER}-01"
WITH_PARENT = [("traceparent", PARENT.encode())]
OTHER = f"00-{TRACE[::-1]}-{CALLER[::-1]}-01"
TOPICS = (
    "payout_validated", "payout_cleared", "payout_retry", "payout_results", "payout_failed_requires_compensation",
    "payout_compensation_results", "payout_reviews", "payout_refusals",
)  # fmt: skip

RESULT: Tree = {"send payout_results": []}
PAID_AT_ONCE: Tree = {
    "process payout_requests": [
        {"validate": []},
        {
            "send payout_validated": [
                {
                    "process payout_validated": [
                        {"comply": []},
                        {"send payout_cleared": [{"process payout_cleared": [{"visa PUSH": []}, RESULT]}]},
                    ]
                }
            ]
        },
    ]
}


def submitted(hop: list[Tree]) -> Tree:
    """The same way to Visa, with what happened there and after."""
    cleared: Tree = {"send payout_cleared": [{"process payout_cleared": hop}]}
    return {"send payout_validated": [{"process payout_validated": [{"comply": []}, cleared]}]}


def headers_of(world: World, topic: str) -> list[str | None]:
    return [header_text(record.headers, "traceparent") for record in world.broker.topics[topic]]


async def test_s3_37_a_payout_is_one_tree_of_every_hop_and_call(world: World) -> None:
    """One root; each hop hangs on the event that it came by; the events of its spans are its life in the ledger."""
    spans = record_spans(world)
    await world.ask(NAME)
    await world.settle()
    assert spans.tree() == PAID_AT_ONCE
    assert {trace_id(span) for span in spans.all()} == {derived_trace_id(NAME)}
    assert transitions(spans.all()) == (await world.life(NAME))[1:], "all but the first, which is the root itself"
    (push,) = spans.named("visa PUSH")
    said = attributes(push)
    assert (said["visa.outcome"], said["http.response.status_code"], said["payout.attempt"]) == ("PAID", 200, 1)
    assert said["visa.request_id"] == world.visa.requests[0].correlation_id
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.all())
    (root,) = spans.named("process payout_requests")
    assert attributes(root)["payout.id"] == NAME


async def test_k2_events_name_the_span_that_sends_them_and_continue_the_callers_trace(world: World) -> None:
    """The originator's trace goes through every topic; our whole tree hangs on his span."""
    spans = record_spans(world)
    await world.ask(NAME, headers=WITH_PARENT)
    await world.settle()
    assert spans.tree(parent=CALLER) == PAID_AT_ONCE
    assert {trace_id(span) for span in spans.all()} == {TRACE}
    for topic in ("payout_validated", "payout_cleared", "payout_results"):
        (sent,) = spans.named(f"send {topic}")
        assert headers_of(world, topic) == [f"00-{TRACE}-{span_id(sent)}-01"]
        (record,) = world.broker.topics[topic]
        assert span_id(sent) == event_span_id(NAME, header_text(record.headers, "ce_id") or "")
    assert (await world.row(NAME)).traceparent == PARENT


@pytest.mark.parametrize(
    "sent", [b"rubbish", PARENT.upper().encode(), b"\xff" * 55, f"00-{TRACE}-{RECIPIENT_CARD}-01".encode()]
)
async def test_a_header_that_is_none_changes_nothing(world: World, sent: bytes) -> None:
    """P6, P8: untrusted input; the payout is paid, in the trace of its id, and nothing of the header is kept."""
    spans = record_spans(world)
    await world.ask(NAME, headers=[("traceparent", sent)])
    await world.settle()
    assert spans.tree() == PAID_AT_ONCE
    row = await world.row(NAME)
    assert (row.state, row.traceparent) == ("PAID", None)


async def test_a_refused_attempt_its_retry_and_the_link_between_them(world: World) -> None:
    """A 429, then paid: the sweeper's event hangs on the root, the second attempt points to the first."""
    spans = record_spans(world)
    world.visa.script[Operation.PUSH_FUNDS] = [lambda _: refused(429)]
    await world.ask(NAME)
    await world.settle()
    again: Tree = {"send payout_retry": [{"process payout_retry": [{"visa PUSH": []}, RESULT]}]}
    way = submitted([{"visa PUSH": []}])
    assert spans.tree() == {"process payout_requests": [{"validate": []}, way, again]}
    first, second = spans.named("visa PUSH")
    assert (first.status.status_code, attributes(first)[ERROR_TYPE]) == (StatusCode.ERROR, "HTTP_429_3001")
    assert attributes(first)["visa.retryable"] is True
    assert (links(first), links(second)) == ([], [span_id(first)])
    assert (second.status.status_code, attributes(second)["payout.attempt"]) == (StatusCode.UNSET, 2)


async def test_a_lost_answer_is_an_error_and_its_question_points_to_it(world: World) -> None:
    """P3: the push is UNKNOWN, the query finds it; both in the tree, the query linked to what it asks about."""
    spans = record_spans(world)
    world.visa.script[Operation.PUSH_FUNDS] = [world.visa.silent_after_effect]
    await world.ask(NAME)
    await world.settle()
    assert (await world.row(NAME)).state == "PAID"
    spans.tree()
    (push,), (query,) = spans.named("visa PUSH"), spans.named("visa QUERY")
    assert (push.status.status_code, push.status.description) == (StatusCode.ERROR, "READ_TIMEOUT")
    assert attributes(push)["visa.outcome"] == "UNKNOWN"
    assert (links(query), attributes(query)["visa.outcome"]) == ([span_id(push)], "PAID")
    assert transitions(spans.all()) == (await world.life(NAME))[1:]


async def test_a_reversed_payout_is_one_tree_to_its_last_event(world: World) -> None:
    """Declined, demanded back, the reversal's answer lost, asked about: one tree. That Visa declines is no error."""
    spans = record_spans(world)
    world.visa.script[Operation.PUSH_FUNDS] = [lambda _: approved("05")]
    world.visa.script[Operation.REVERSE_FUNDS] = [world.visa.silent_after_effect]
    await world.ask(NAME, funding=world.card_pull(NAME))
    await world.settle()
    assert (await world.row(NAME)).compensation == "COMPENSATED"
    tree = str(spans.tree())
    for name in ("send payout_failed_requires_compensation", "visa REVERSE'", "visa REVERSAL_QUERY"):
        assert name in tree
    assert "send payout_compensation_results" in tree
    (push,), (reverse,), (query,) = (spans.named(f"visa {name}") for name in ("PUSH", "REVERSE", "REVERSAL_QUERY"))
    assert (attributes(push)["visa.outcome"], push.status.status_code) == ("DECLINED", StatusCode.UNSET)
    assert links(query) == [span_id(reverse)] == [attempt_span_id(NAME, "REVERSE", 1)]


async def test_the_originators_confirmation_hangs_on_his_own_span_of_the_same_trace(world: World) -> None:
    """C2: he reads our demand, goes on in its trace, and confirms from there."""
    spans = record_spans(world)
    world.visa.script[Operation.PUSH_FUNDS] = [lambda _: approved("05")]
    await world.ask(NAME)
    await world.settle()
    (demand,) = await world.events("payout_failed_requires_compensation")
    said = {name: demand[name] for name in ("compensation_id", "payout_id", "originator_id")}
    said |= {"confirmed_at": world.now, "confirmation_reference": "r-1", "outcome": "COMPLETED"}
    value = await world.codec.encode("CompensationConfirmation", said)
    his = f"00-{derived_trace_id(NAME)}-{CALLER}-01"
    world.broker.put("payout_compensation_confirmations", NAME.encode(), value, [("traceparent", his.encode())])
    await world.settle()
    (confirmed,) = spans.named("process payout_compensation_confirmations")
    assert confirmed.parent is not None
    assert f"{confirmed.parent.span_id:016x}" == CALLER
    assert (await world.row(NAME)).compensation == "COMPENSATED"


async def test_k2_a_kill_between_effect_and_answer_leaves_one_tree_and_the_same_headers(world: World) -> None:
    """Killed after the effect: another worker asks and announces, in the same trace, and points to the lost attempt."""
    spans = record_spans(world)
    await world.ask(NAME)
    world.boundary.fail_once("visa.push_funds:after", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        await world.settle()
    world.worker = world.start_worker()
    await world.settle()
    assert (await world.row(NAME)).state == "PAID"
    (push,), (query,) = spans.named("visa PUSH"), spans.named("visa QUERY")
    assert links(query) == [span_id(push)] == [attempt_span_id(NAME, "PUSH", 1)]
    spans.tree()
    for topic in ("payout_validated", "payout_cleared", "payout_results"):
        (said,) = {
            (header_text(one.headers, "ce_id"), header_text(one.headers, "traceparent"))
            for one in world.broker.topics[topic]
        }
        assert said[1] == f"00-{derived_trace_id(NAME)}-{event_span_id(NAME, said[0] or '')}-01"


async def test_k2_what_the_sweeper_announces_hangs_on_the_root(world: World) -> None:
    """No record is at hand, only the row: a publish that was lost with its worker is made good in the same trace."""
    spans = record_spans(world)
    await world.ask(NAME, headers=WITH_PARENT)
    world.boundary.fail_once("publish.payout_results:before", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        await world.settle()
    world.next_offset["payout_cleared"] += 1  # nobody delivers it again
    world.worker = world.start_worker()
    await world.settle()
    lost, sent = spans.named("send payout_results")
    (root,) = spans.named("process payout_requests")
    assert sent.parent is not None
    assert (f"{sent.parent.span_id:016x}", span_id(sent)) == (span_id(root), span_id(lost))
    assert (lost.status.description, sent.status.status_code) == ("KeyboardInterrupt", StatusCode.UNSET)
    assert headers_of(world, "payout_results") == [f"00-{TRACE}-{span_id(sent)}-01"]
    spans.tree(parent=CALLER)


async def test_k2_k3_what_is_published_again_is_the_same_with_its_context(world: World) -> None:
    """A function of the row: a redelivered request, with the marks lost, publishes the same headers again."""
    spans = record_spans(world)
    await world.ask(NAME, headers=WITH_PARENT)
    await world.deliver(world.broker.topics[REQUESTS][0])
    await world.deliver(world.broker.topics[REQUESTS][0])
    first, second = world.broker.topics["payout_validated"]
    assert first.headers == second.headers
    assert (first.key, first.value) == (second.key, second.value)
    assert spans.tree(parent=CALLER)
    assert [span_id(span) for span in spans.named("process payout_requests")] == [
        span_id(span) for span in spans.named("process payout_requests")[:1]
    ] * 2, "a span that is recorded again has the id that it had"


async def test_p5_a_repeat_is_a_hop_of_the_same_tree_that_points_to_its_sender(world: World) -> None:
    """The same content again, from another trace of the originator's: it is answered in the payout's own."""
    spans = record_spans(world)
    request = world.request(NAME)
    value = await world.codec.encode("PayoutRequest", request)
    world.broker.put(REQUESTS, NAME.encode(), value, WITH_PARENT)
    await world.settle()
    for parent in (OTHER, PARENT):
        world.broker.put(REQUESTS, NAME.encode(), value, [("traceparent", parent.encode())])
        await world.settle()
    spans.tree(parent=CALLER)
    first, repeat, same_sender = spans.named("process payout_requests")
    assert links(same_sender) == [CALLER]
    assert repeat.parent is not None
    assert f"{repeat.parent.span_id:016x}" == span_id(first)
    assert links(repeat) == [CALLER[::-1]]
    assert "idempotency.hit" in [name for name, _ in events(repeat)]
    assert len(set(headers_of(world, "payout_results"))) == 1, "the same event, the same place"


async def test_a_dead_letter_is_a_hop_that_failed_in_its_senders_trace(world: World) -> None:
    """K6: no payout, so no payout's trace; the letter carries the context on."""
    spans = record_spans(world)
    world.broker.put(REQUESTS, b"k", b"rubbish", WITH_PARENT)
    await world.settle()
    assert spans.tree(parent=CALLER) == {"process payout_requests": [{"send payout_dead_letters": []}]}
    (hop,) = spans.named("process payout_requests")
    assert hop.status.status_code is StatusCode.ERROR
    assert "payout.id" not in attributes(hop)
    assert headers_of(world, "payout_dead_letters") == [PARENT]


async def test_questions_before_a_payout_are_calls_of_its_tree(world: World) -> None:
    """B3, B10 (`orchestrator.preflight.*`, `fx.lock`)."""
    spans = record_spans(world)
    await world.ask(NAME, **world.abroad())
    await world.settle()
    spans.tree()
    names = [span.name for span in spans.all() if span.name.startswith("visa ")]
    assert names == ["visa CARD_ATTRIBUTES", "visa CARD_VALIDATION", "visa RATE_QUOTE", "visa PUSH"]


# --- sampling, and off ---------------------------------------------------------------------------------------------


async def test_a_payout_is_recorded_whole_or_not_at_all(world: World) -> None:
    """The share is of payouts: the same ones in every worker, and their events say so."""
    spans = record_spans(world, ratio=0.5)
    names = [f"payout-{number:04}" for number in range(12)]
    for name in names:
        await world.ask(name)
    await world.settle()
    by_trace: dict[str, list[str]] = {}
    for span in spans.all():
        by_trace.setdefault(trace_id(span), []).append(span.name)
    assert 0 < len(by_trace) < len(names)
    assert all(sorted(found) == sorted(next(iter(by_trace.values()))) for found in by_trace.values())
    for record in world.broker.topics["payout_results"]:
        parent = header_text(record.headers, "traceparent") or ""
        assert parent.endswith("-01") is (parent[3:35] in by_trace)
    assert current_span() is NO_SPAN, "nothing stays open"


async def test_off_means_the_same_context_in_every_event_and_no_span(world: World) -> None:
    """K2: whether anybody records decides nothing but the flag that says so."""
    await world.ask(NAME)
    await world.settle()
    silent = {topic: headers_of(world, topic) for topic in TOPICS}
    await world.ask("payout-0002", headers=WITH_PARENT)
    await world.settle()
    for name, trace, flag in ((NAME, derived_trace_id(NAME), "00"), ("payout-0002", TRACE, "01")):
        records = [one for topic in TOPICS for one in world.broker.topics[topic] if one.key == name.encode()]
        assert len(records) == 3, "validated, cleared, result"
        assert [header_text(one.headers, "traceparent") for one in records] == [
            f"00-{trace}-{event_span_id(name, header_text(one.headers, 'ce_id') or '')}-{flag}" for one in records
        ]
    assert current_span() is NO_SPAN
    assert all(parent and parent.endswith("-00") for parents in silent.values() for parent in parents)
    assert str(headers_of(world, "payout_results")[1]).startswith(f"00-{TRACE}-")
    assert str(headers_of(world, "payout_results")[1]).endswith("-01"), "the originator's own word is kept"


def test_off_imports_nothing_of_opentelemetry() -> None:
    """Not installed is no error, and costs nothing: a worker and every command are imported without it."""
    code = (
        "import sys, ops.main, streams.bootstrap\n"
        "from streams.settings import Settings\n"
        "assert not any('TRACING' in each for each in Settings().problems())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_one_module_imports_opentelemetry() -> None:
    importing = [
        file.relative_to(ROOT).as_posix()
        for room in ("schemas", "processors", "ledger", "streams", "ops", "sandbox")
        for file in (ROOT / room).rglob("*.py")
        if re.search(r"^\s*(import|from) opentelemetry", file.read_text("utf-8"), re.MULTILINE)
    ]
    assert importing == ["streams/opentelemetry_spans.py"]


# --- the contract --------------------------------------------------------------------------------------------------


async def lives(world: World) -> None:
    """One payout of every kind, so that every span of the contract occurs."""
    visa = world.visa
    secret = f"order of Tomas Okafor {RECIPIENT_CARD}"
    await world.ask("payout-1001", correlation_id=secret, headers=WITH_PARENT)
    await world.settle()
    await world.ask("payout-1001", correlation_id=secret)
    await world.ask("payout-1001", amount={"amount_minor": 1, "currency": "USD"})
    await world.settle()
    for name, funding in (("payout-1002", world.card_pull("payout-1002")), ("payout-1003", world.internal("3"))):
        visa.script[Operation.PUSH_FUNDS] = [lambda _: approved("05")]
        visa.script[Operation.REVERSE_FUNDS] = [visa.silent_after_effect]
        await world.ask(name, funding=funding)
        await world.settle()
    await _confirm(world, "payout-1003")
    visa.script[Operation.PUSH_FUNDS] = [lambda _: approved("05")]
    pull = world.card_pull("payout-1004")
    pull["aft"]["captured_at"] = world.now_in(-30 * 3600)
    visa.script[Operation.ADJUSTMENT] = [visa.silent_after_effect]
    await world.ask("payout-1004", funding=pull)
    await world.settle()
    for name, destination in (("payout-1005", world.account()), ("payout-1006", world.wallet())):
        visa.script[Operation.SEND_PAYOUT] = [visa.silent_after_effect]
        await world.ask(name, destination=destination)
        await world.settle()
    await world.ask("payout-1007", destination=world.alias(), **world.abroad())
    await world.ask("payout-1008", **world.abroad())
    await world.ask("payout-1009", destination=world.account(), **world.abroad())
    await world.settle()
    visa.script[Operation.PUSH_FUNDS] = [lambda _: _accepted(), world.visa.silent_after_effect]
    await world.ask("payout-1010")
    await world.settle()
    visa.script[Operation.PUSH_FUNDS] = [lambda _: approved("10")]
    await world.ask("payout-1011")
    await world.settle()
    await _reviewed(world, "payout-1012")
    await world.ask("payout-1013", amount={"amount_minor": -5, "currency": "USD"})
    world.broker.put(REQUESTS, b"k", f"rubbish {SENDER_CARD}".encode())
    await world.settle()


def _accepted() -> Any:
    from processors.visa.exchange import Answered

    return Answered(202, {}, {"statusIdentifier": "status-1"}, None, "corr-visa", 0.01)


async def _confirm(world: World, name: str) -> None:
    (demand,) = await world.events("payout_failed_requires_compensation", name)
    said = {each: demand[each] for each in ("compensation_id", "payout_id", "originator_id")}
    said |= {"confirmed_at": world.now, "confirmation_reference": "r-1", "outcome": "COMPLETED"}
    await world.produce("payout_compensation_confirmations", "CompensationConfirmation", said)
    await world.settle()


async def _reviewed(world: World, name: str) -> None:
    parties = {"sender": {"name": "Mara Lindqvist"}, "recipient": {"name": "Viktor Drakenfels Senior"}}
    await world.ask(name, personal_data=world.seal(parties))
    await world.settle()
    for case in await world.events("payout_reviews", name):
        said = {"case_id": case["case_id"], "payout_id": name, "decision": "REJECT", "reviewer": "r. viewer"}
        said |= {"reason_code": "NAME_COMPARED", "decided_at": world.now}
        await world.produce("payout_review_decisions", "ReviewDecision", said)
    await world.settle()


@pytest.fixture
async def every_life(world: World) -> Spans:
    spans, withheld = record_spans(world), WITHHELD[NAME_NOT_ALLOWED]
    await lives(world)
    assert WITHHELD[NAME_NOT_ALLOWED] == withheld, "an attribute that is not published was said, and dropped"
    return spans


def contract() -> dict[str, tuple[str, set[str], set[str]]]:
    """docs/telemetry.md: for each span its kind, its attributes and its events."""
    lines = (ROOT / "docs" / "telemetry.md").read_text("utf-8").splitlines()
    begin = lines.index("| span | kind | attributes | events |") + 2
    told: dict[str, tuple[str, set[str], set[str]]] = {}
    for line in lines[begin : lines.index("", begin)]:
        names, kind, carried, happens = (cell.strip() for cell in line.strip("|").split("|"))
        for name in re.findall(r"`([^`]+)`", names):
            told[name] = (kind, set(re.findall(r"`([^`]+)`", carried)), set(re.findall(r"`([^`]+)`", happens)))
    return told


def test_b10_the_contract_is_what_the_product_does(every_life: Spans) -> None:
    """B10, S1-30: every span, attribute and event of docs/telemetry.md occurs, and nothing else does."""
    told = contract()
    seen: dict[str, tuple[set[str], set[str], set[str]]] = {}
    for span in every_life.all():
        kinds, carried, happened = seen.setdefault(span.name, (set(), set(), set()))
        kinds.add(span.kind.name)
        carried |= set(attributes(span)) - {ERROR_TYPE}
        happened |= {name for name, _ in events(span)}
    assert {name: kinds for name, (kinds, _, _) in seen.items()} == {
        name: {kind} for name, (kind, _, _) in told.items()
    }
    for name, (_, carried, happened) in seen.items():
        assert carried <= told[name][1], name
        assert happened <= told[name][2], name
    assert {one for _, carried, _ in seen.values() for one in carried} == {
        one for _, names, _ in told.values() for one in names
    }
    assert {one for _, _, happened in seen.values() for one in happened} == EVENTS


def test_b10_the_lists_of_attributes_are_the_allow_list() -> None:
    """S1-11: what is not published is not shown."""
    text = (ROOT / "docs" / "telemetry.md").read_text("utf-8")
    section = text.partition("## Attributes")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
    assert named == ATTRIBUTES | {ERROR_TYPE}


def test_p6_no_span_holds_a_card_number_a_name_or_a_secret(every_life: Spans, world: World) -> None:
    """P6, S1-19: through every name, value, status, event, link and resource of every span of every life."""
    texts = [text for span in every_life.all() for text in _texts(span)]
    assert len(texts) > 1_000
    whole = "\n".join(texts)
    for secret in (
        RECIPIENT_CARD, SENDER_CARD, ACCOUNT_NUMBER, "Lindqvist", "Okafor", "Drakenfels", "High Street", "rosalind",
        "tok_", "corr-visa-secret",
    ):  # fmt: skip
        assert secret not in whole, secret
    pushed = {str(body["retrievalReferenceNumber"]) for body in world.visa.pushes}
    assert not any(number in whole for number in pushed), "nor what identifies the payout at Visa beside our own ids"
    cards = [text for text in texts if find(text, frozenset({PiiKind.CARD}))]
    assert cards == []


def _texts(span: ReadableSpan) -> Iterator[str]:
    yield span.name
    yield str(span.status.description)
    yield from (str(value) for value in span.resource.attributes.values())
    for said in (attributes(span), *(said for _, said in events(span))):
        assert set(said) <= ATTRIBUTES | {ERROR_TYPE}
        yield from map(str, said.values())
    for link in span.links:
        yield from map(str, (link.attributes or {}).values())
        yield str(link.context.trace_state)


def test_p6_a_value_that_looks_like_a_card_number_is_masked_and_a_foreign_name_dropped() -> None:
    """S1-11, S1-19: the last gate, whoever forgets himself before it."""
    spans = Spans()
    with spans.tracing.hop(_NoRecord()), open_span("validate", attributes={"payout.id": f"x {RECIPIENT_CARD}"}) as span:
        span.set({"recipient.name": "Tomas Okafor", "payout.state": RECIPIENT_CARD})
    (child,) = spans.named("validate")
    assert attributes(child) == {"payout.id": "x [card number]", "payout.state": "[card number]"}


class _NoRecord:
    topic, partition, offset = REQUESTS, 0, 7
    headers: Sequence[tuple[str, bytes]] = ()


# --- logs ----------------------------------------------------------------------------------------------------------


async def test_log_lines_say_which_span_they_belong_to(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """From a line to its trace and back; without tracing a line is what it was."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.setFormatter(JsonFormatter("worker-1"))
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("streams")
    caplog.set_level(logging.INFO)
    logger.addHandler(handler)
    try:
        await world.ask("payout-0002")
        await world.settle()
        assert lines
        assert "trace.id" not in "".join(lines)
        lines.clear()
        spans = record_spans(world)
        await world.ask(NAME)
        await world.settle()
    finally:
        logger.removeHandler(handler)
    (push,) = spans.named("visa PUSH")
    (hop,) = spans.named("process payout_cleared")
    (call,) = [line for line in lines if '"visa call"' in line]
    assert f'"trace.id": "{trace_id(push)}", "span.id": "{span_id(hop)}"' in call


# --- nothing waits, nothing fails ----------------------------------------------------------------------------------


class Stuck(SpanExporter):
    """A collector that takes a request and says nothing, until it is let go."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        del spans
        self.began.set()
        self.go.wait(30)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing ends it."""


class Failing(SpanExporter):
    """A collector that refuses, or a library that raises."""

    def __init__(self, *, raises: bool) -> None:
        self._raises = raises

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._raises:
            raise ConnectionError(f"{len(spans)} spans with {RECIPIENT_CARD}")
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing to close."""


def failures(metrics: Metrics, what: str) -> float:
    return float(metrics.tracing_failures.labels(what)._value.get())


def bounded(exporter: SpanExporter, queue_max: int = 64) -> tuple[SpanRecorder, Tracing, Metrics]:
    metrics = Metrics()
    recorder = SpanRecorder(exporter, metrics, worker="w", environment="test", queue_max=queue_max)
    return recorder, Tracing(recorder), metrics


def hops(tracing: Tracing, count: int) -> None:
    for _ in range(count):
        with tracing.hop(_NoRecord()):
            pass


def test_a_collector_that_does_not_answer_costs_spans_and_no_time() -> None:
    """The queue is bounded, what finds no room is counted, and nobody waited: the exporter is stuck all the while."""
    exporter = Stuck()
    recorder, tracing, metrics = bounded(exporter)
    hops(tracing, 64)
    assert exporter.began.wait(30)
    hops(tracing, 136)
    assert failures(metrics, "dropped") == 136
    exporter.go.set()
    recorder.shutdown()
    hops(tracing, 1)
    assert failures(metrics, "dropped") == 136


@pytest.mark.parametrize("raises", [False, True])
def test_a_collector_that_refuses_is_counted_and_said_once(raises: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    recorder, tracing, metrics = bounded(Failing(raises=raises))
    hops(tracing, 100)
    recorder.shutdown()
    assert failures(metrics, "export") + failures(metrics, "dropped") == 100
    assert failures(metrics, "export") >= 64
    said = [record for record in caplog.records if "collector" in record.getMessage()]
    assert len(said) == 1
    assert RECIPIENT_CARD not in caplog.text


async def test_a_worker_ends_although_the_collector_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opentelemetry_spans, "CLOSE_SECONDS", 0.05)
    exporter = Stuck()
    recorder, tracing, _ = bounded(exporter)
    hops(tracing, 1)
    async with asyncio.timeout(20):
        await close_recorder(recorder)
    assert not exporter.go.is_set(), "it was still stuck"
    exporter.go.set()


async def test_a_library_that_fails_fails_no_payout(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: whatever happens behind the recorder, the payout is paid and the span is counted."""
    spans = record_spans(world)
    monkeypatch.setattr(opentelemetry_spans, "readable_span", lambda *_: 1 // 0)
    await world.ask(NAME)
    await world.settle()
    assert (await world.row(NAME)).state == "PAID"
    spans.recorder.shutdown()
    assert failures(spans.metrics, "span") > 5


def test_a_finished_span_is_recorded_with_the_ids_that_it_was_given() -> None:
    """What others point to is what is exported."""
    spans = Spans()
    recorded: list[FinishedSpan] = []
    Tracing(recorded.append).hop(_NoRecord()).__enter__().__exit__(None, None, None)
    spans.recorder(recorded[0])
    (span,) = spans.all()
    assert (trace_id(span), span_id(span)) == (recorded[0].context.trace_id, recorded[0].context.span_id)


# --- settings ------------------------------------------------------------------------------------------------------

COLLECTOR = "https://collector.example:4318/v1/traces"


def traced(**changes: Any) -> Settings:
    values = {"payouts_profile": Profile.TEST, "payouts_tracing": "otlp", "payouts_tracing_endpoint": COLLECTOR}
    return Settings(**(values | changes))


def about_tracing(settings: Settings) -> list[str]:
    return [problem for problem in settings.problems() if "TRACING" in problem]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"payouts_tracing_endpoint": None}, "PAYOUTS_TRACING_ENDPOINT"),
        ({"payouts_tracing_endpoint": "collector:4318"}, "PAYOUTS_TRACING_ENDPOINT"),
        ({"payouts_tracing_endpoint": "https://collector.example:4318"}, "PAYOUTS_TRACING_ENDPOINT"),
        ({"payouts_tracing_endpoint": "https://u:geheim@collector.example/v1/traces"}, "PAYOUTS_TRACING_ENDPOINT"),
        ({"payouts_tracing_endpoint": "https://collector.example:x/v1/traces"}, "PAYOUTS_TRACING_ENDPOINT"),
        ({"payouts_tracing_headers": "authorization geheim"}, "PAYOUTS_TRACING_HEADERS"),
        ({"payouts_tracing_headers": "authorization=geheim\r\nx: y"}, "PAYOUTS_TRACING_HEADERS"),
        ({"payouts_tracing_ca_path": "/nonexistent/ca.pem"}, "PAYOUTS_TRACING_CA_PATH"),
        (
            {"payouts_profile": Profile.PRODUCTION, "payouts_tracing_endpoint": "http://collector.example/v1/traces"},
            "PAYOUTS_TRACING_ENDPOINT must be https",
        ),
    ],
)
def test_tracing_that_cannot_work_does_not_start(changes: dict[str, Any], named: str) -> None:
    """Each problem names its variable and says what to do, and never a secret."""
    (problem,) = about_tracing(traced(**changes))
    assert named in problem
    assert "geheim" not in problem


def test_tracing_that_is_well_set_starts() -> None:
    settings = traced(payouts_tracing_headers="authorization=Bearer geheim, x-scope=payouts")
    assert about_tracing(settings) == []
    assert settings.tracing_headers == {"authorization": "Bearer geheim", "x-scope": "payouts"}
    assert "geheim" not in repr(settings)
    near = traced(payouts_profile=Profile.PRODUCTION, payouts_tracing_endpoint="http://127.0.0.1:4318/v1/traces")
    assert about_tracing(near) == []


def test_tracing_without_its_extra_says_so_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an ImportError in the middle of a start, and not silence."""
    monkeypatch.setattr("streams.settings.importlib.util.find_spec", lambda _: None)
    (problem,) = about_tracing(traced())
    assert "install the extra `tracing`" in problem
    assert about_tracing(Settings(payouts_profile=Profile.TEST)) == []
