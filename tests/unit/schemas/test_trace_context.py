"""W3C trace context from strangers: one exact form or nothing; ids that derive are the same for ever (K2, P6)."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.payout.trace import attempt_span_id, event_span_id, root_of
from schemas.card_numbers import find_card_numbers, looks_like_card_number
from schemas.trace_context import (
    TRACEPARENT_CHARACTERS,
    TraceContext,
    derived_span_id,
    derived_trace_id,
    header_context,
    is_sampled,
    parse_traceparent,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
CARD = "4957030420210462"
HEXADECIMAL = "0123456789abcdef"
FORM = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def hexadecimal(digits: int) -> st.SearchStrategy[str]:
    return st.text(HEXADECIMAL, min_size=digits, max_size=digits)


@given(trace_id=hexadecimal(32), span_id=hexadecimal(16), flags=hexadecimal(2))
def test_a_well_formed_header_is_read_and_written_the_same(trace_id: str, span_id: str, flags: str) -> None:
    read = parse_traceparent(f"00-{trace_id}-{span_id}-{flags}")
    if read is not None:
        assert (read.trace_id, read.span_id, read.sampled) == (trace_id, span_id, bool(int(flags, 16) & 1))
        assert parse_traceparent(read.traceparent) == read
    elif trace_id.strip("0") and span_id.strip("0"):
        assert any(looks_like_card_number(run.lstrip("0")) for run in re.findall("[0-9]+", f"{trace_id} {span_id}"))


@given(text=st.one_of(st.text(max_size=80), st.text("0123456789abcdefABCDEF-", min_size=53, max_size=57)))
def test_whatever_is_not_exactly_the_form_is_no_header(text: str) -> None:
    """Untrusted input: it never raises, and what is read has the one form."""
    read = parse_traceparent(text)
    assert read is None or FORM.fullmatch(text)


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(["traceparent", "Traceparent", "ce_id"]),
            st.one_of(st.none(), st.binary(max_size=60), st.text(max_size=60), st.just(PARENT.encode())),
        ),
        max_size=4,
    )
)
def test_headers_of_any_kind_are_read_without_a_failure(headers: list[tuple[str, Any]]) -> None:
    read = header_context(headers)
    given_ones = [value for name, value in headers if name == "traceparent" and value is not None]
    assert read is None or given_ones in ([PARENT.encode()], [PARENT])


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        PARENT.upper(),
        f"{PARENT}-x",
        f" {PARENT}",
        f"{PARENT}\n",
        f"01-{TRACE}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-\N{ARABIC-INDIC DIGIT ONE}1",
        f"00-{TRACE}-{SPAN}".ljust(10_000_000, "0"),
        f"00-{TRACE}-{CARD}-01",
        f"00-{CARD.zfill(32)}-{SPAN}-01",
        f"00-{CARD}abcdefabcdefabcd-{SPAN}-01",
    ],
)
def test_what_names_no_trace_or_spells_a_card_number_is_no_header(text: str | None) -> None:
    """P6: the row keeps it in clear, and every event of the payout repeats it."""
    assert parse_traceparent(text) is None
    assert header_context([("traceparent", text)]) is None


def test_two_headers_are_none() -> None:
    """W3C: nobody can say which one is meant."""
    assert header_context([("traceparent", PARENT.encode())]) == TraceContext(TRACE, SPAN, sampled=True)
    assert header_context([("traceparent", PARENT.encode())] * 2) is None
    assert header_context(None) is None


@given(name=st.text(max_size=70))
def test_derived_ids_are_ids_and_no_card_numbers(name: str) -> None:
    context = TraceContext(derived_trace_id(name), derived_span_id(name))
    assert parse_traceparent(context.traceparent) == context
    assert not find_card_numbers(context.traceparent)


def test_derived_ids_are_fixed_for_ever() -> None:
    """K2: what is sent again after an upgrade must name the span it named before: golden values."""
    root = root_of("payout-1", None)
    assert root == TraceContext("9528eebbe4decac4515c5985acbcb4f7", "d228d3f408101d26")
    assert root_of("payout-1", PARENT) == TraceContext(TRACE, root.span_id, sampled=True)
    assert root_of("payout-1", "rubbish") == root
    assert event_span_id("payout-1", "id-1") == "40bcb2beb487d1e2"
    assert attempt_span_id("payout-1", "PUSH", 1) == "86445a5953ceaef9"


@given(names=st.sets(st.text(max_size=64), min_size=2, max_size=20))
def test_other_names_have_other_ids(names: set[str]) -> None:
    usable = {name.encode("utf-8", "replace") for name in names}
    assert len({derived_trace_id(name) for name in names}) == len(usable)
    assert len({derived_span_id(name) for name in names}) == len(usable)


def test_the_share_that_is_recorded_is_the_ratio_and_the_same_everywhere() -> None:
    """As OpenTelemetry's TraceIdRatioBased: services with the same ratio record the same traces."""
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    ids = [derived_trace_id(f"payout-{number}") for number in range(2_000)]
    for ratio in (0.0, 0.25, 1.0):
        theirs = TraceIdRatioBased(ratio)
        ours = [is_sampled(trace_id, ratio) for trace_id in ids]
        assert ours == [theirs.should_sample(None, int(each, 16), "s").decision.is_sampled() for each in ids]
        assert abs(sum(ours) / len(ids) - ratio) < 0.05


def test_the_longest_header_is_bounded() -> None:
    assert len(PARENT) == TRACEPARENT_CHARACTERS
