"""Parsing holds shape only, quotes nothing, and raises nothing but its own error (P6, P8, K7)."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.payout.row import FundingKind
from processors.validation.request import AftStatus, DestinationKind, RequestMalformed, parse_request

PLANTED = "4111111111111111"
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.just(PLANTED)
    | st.binary(max_size=8)
    | st.floats()
    | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12) | st.just(PLANTED), inner, max_size=4)
    ),
    max_leaves=8,
)


def test_timestamps_are_accepted_as_datetime_and_as_microseconds(requests: Any) -> None:
    """The Avro codec yields datetimes; a raw reader yields timestamp-micros. Both are the same instant in UTC."""
    at = datetime(2026, 10, 14, 12, 0, 0, 123456, tzinfo=UTC)
    micros = int(at.timestamp()) * 1_000_000 + 123456
    tokyo = at.astimezone(timezone(timedelta(hours=9)))
    for value in (at, micros, tokyo):
        parsed = parse_request(requests.record(requested_at=value))
        assert parsed.requested_at == at
        assert parsed.requested_at.tzinfo is UTC


def test_unknown_symbols_become_unspecified(requests: Any) -> None:
    """FULL_TRANSITIVE: a newer producer's symbol is read as the default, and validation refuses it."""
    record = requests.record(
        funding=requests.aft_funding(status="SETTLED") | {"kind": "CRYPTO"},
        destination=requests.card_destination() | {"kind": "CHEQUE"},
    )
    parsed = parse_request(record)
    assert parsed.funding.kind is FundingKind.UNSPECIFIED
    assert parsed.funding.aft is not None
    assert parsed.funding.aft.status is AftStatus.UNSPECIFIED
    assert parsed.destination.kind is DestinationKind.UNSPECIFIED


@pytest.mark.parametrize("value", [2**63, -(2**63), datetime(2026, 1, 1), "now", 1.5, True, None])  # noqa: DTZ001
def test_impossible_times_are_malformed(requests: Any, value: Any) -> None:
    """A time outside the calendar or without a zone is an error of shape, not a crash."""
    with pytest.raises(RequestMalformed, match="requested_at"):
        parse_request(requests.record(requested_at=value))


def test_the_error_names_the_nested_field(requests: Any) -> None:
    """Errors say where."""
    with pytest.raises(RequestMalformed, match=r"funding\.internal\.debit_confirmed"):
        parse_request(requests.record(funding=requests.internal_funding(debit_confirmed=1)))


def test_nothing_of_a_request_prints_its_content(requests: Any) -> None:
    """P6: reprs show the names of set fields only."""
    request, opened = requests.opened(requests.record(funding=requests.aft_funding(), correlation_id=PLANTED))
    shown = f"{request!r} {request.funding!r} {request.funding.aft!r} {request.destination.card!r} {opened!r}"
    shown += (
        f"{opened.personal!r} {opened.personal.sender!r} {opened.personal.sender.address!r} {opened.funding_card!r}"
    )
    for content in (PLANTED, "4957030420210462", "4895142232120006", "Mara", "Lindqvist", "Leeds", "Okafor", "aft-1"):
        assert content not in shown
    assert "correlation_id" in repr(request)


@settings(deadline=None, max_examples=200)
@given(junk=JUNK)
def test_junk_records_raise_only_the_declared_error(junk: Any) -> None:
    """P8, P6: no other exception, and no planted value in its text."""
    with pytest.raises(RequestMalformed) as caught:
        parse_request(junk)
    assert PLANTED not in str(caught.value)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), junk=JUNK)
def test_junk_in_any_field_raises_only_the_declared_error(requests: Any, data: st.DataObject, junk: Any) -> None:
    """P8, P6: one field at a time, nested ones included."""
    record = requests.record(funding=requests.aft_funding(), fx_quote=requests.quote())
    target = record
    while True:
        name = data.draw(st.sampled_from(sorted(target)))
        if not isinstance(target[name], dict) or data.draw(st.booleans()):
            break
        target[name] = dict(target[name])
        target = target[name]
        if not target:
            return
    target[name] = junk
    try:
        shown = repr(parse_request(record))
    except RequestMalformed as error:
        shown = str(error)
    assert PLANTED not in shown
