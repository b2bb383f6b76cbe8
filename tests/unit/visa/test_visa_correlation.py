"""S1-02, S1-03: the id under which a payout reaches Visa has a format, and never changes."""

import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from processors.visa import correlation
from processors.visa.correlation import RequestIdFormat, RequestIds, originators_id, outbound_id
from processors.visa.fields import header_value
from schemas.card_numbers import looks_like_card_number

AT = datetime(2026, 1, 1, tzinfo=UTC)
OUR_FORMATS = [RequestIdFormat.UUID, RequestIdFormat.ULID, RequestIdFormat.PREFIX_TS]
PAYOUT_IDS = st.from_regex(r"[A-Za-z0-9_-]{8,64}", fullmatch=True)
TIMES = st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (RequestIdFormat.UUID, "3d518056-9061-57c8-a550-3d917d9cf8ce"),
        (RequestIdFormat.ULID, "01KDVDNA00A5ZRRP6DHGWBFTVW"),
        (RequestIdFormat.PREFIX_TS, "visa-sdk-1767225600000-517f8c58cd8c38b7"),
    ],
)
def test_an_id_is_fixed_for_ever(form: RequestIdFormat, expected: str) -> None:
    """S1-02, S1-03: golden values: a retry after an upgrade goes out under the id of the first try."""
    assert outbound_id("payout-0001", AT, form) == expected


def test_the_formats_are_what_they_are_called() -> None:
    """S1-02: a real UUID, a real ULID that sorts by time, and the prefix with the time."""
    first, second = (outbound_id("payout-0001", at, RequestIdFormat.ULID) for at in (AT, AT + timedelta(seconds=1)))
    assert first < second
    assert ULID.from_str(first).datetime == AT
    assert uuid.UUID(outbound_id("payout-0001", AT, RequestIdFormat.UUID)).version == 5
    with_prefix = outbound_id("payout-0001", AT, RequestIdFormat.PREFIX_TS, "acme")
    assert re.fullmatch("acme-1767225600000-[0-9a-f]{16}", with_prefix)


@given(payout_id=PAYOUT_IDS, at=TIMES, form=st.sampled_from(OUR_FORMATS))
def test_any_payout_has_an_id_that_fits_a_header_and_is_no_card_number(
    payout_id: str, at: datetime, form: RequestIdFormat
) -> None:
    """S1-02, P6: whatever the broker's clock said; asked twice, the answer is the same."""
    given_id = outbound_id(payout_id, at, form)
    assert header_value("request id", given_id) == outbound_id(payout_id, at, form)
    assert not looks_like_card_number(given_id)


@pytest.mark.parametrize("form", OUR_FORMATS)
def test_a_hundred_thousand_payouts_of_one_moment_have_ids_of_their_own(form: RequestIdFormat) -> None:
    """S1-02: the time alone tells nobody apart."""
    count = 100_000
    ids = {outbound_id(f"payout-{number:06d}", AT, form) for number in range(count)}
    assert len(ids) == count


def test_an_id_that_happens_to_look_like_a_card_number_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: the next in line, and always the same one."""
    outbound_id = correlation.outbound_id.__wrapped__  # without the memory of what was asked before
    first = outbound_id("payout-0001", AT, RequestIdFormat.UUID)
    monkeypatch.setattr(correlation, "looks_like_card_number", lambda text: text == first)
    second = outbound_id("payout-0001", AT, RequestIdFormat.UUID)
    assert second not in (first, outbound_id("payout-0002", AT, RequestIdFormat.UUID))
    assert second == outbound_id("payout-0001", AT, RequestIdFormat.UUID)


@pytest.mark.parametrize("correlation_id", ["órdenes 17", "order 17", "c" * 129, "a\r\nb"])
def test_an_originators_id_that_no_header_can_carry_goes_out_as_a_name_of_it(correlation_id: str) -> None:
    """S1-03: the format `originator` passes on what it can."""
    assert uuid.UUID(originators_id(correlation_id)).version == 5
    assert originators_id(correlation_id) == originators_id(correlation_id)
    assert originators_id("order-17") == "order-17"


def test_the_originators_own_id_is_not_derived() -> None:
    with pytest.raises(ValueError, match="originator"):
        outbound_id("payout-0001", AT, RequestIdFormat.ORIGINATOR)


@pytest.mark.parametrize("prefix", ["", "4111111111111111", "two words", "line\n", "a" * 33, "ä"])
def test_a_prefix_that_is_no_name_is_refused(prefix: str) -> None:
    """S1-02: at start, not when a lease is held."""
    with pytest.raises(ValueError, match="prefix"):
        RequestIds(RequestIdFormat.PREFIX_TS, prefix)
