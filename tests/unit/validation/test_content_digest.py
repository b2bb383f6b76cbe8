"""The same content is the same payout, however it was encrypted; other content is not (L8, P5)."""

import copy
import hmac
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.content import (
    ContentDigest,
    ContentKeyInvalid,
    ContentKeys,
    ContentKeyUnknown,
    content_digest,
    same_content,
)
from processors.personal_data import OpaqueDetails
from processors.validation.opened import Unreadable

KEYS = ContentKeys({"1": bytes(range(32)), "2": bytes(range(32, 64))}, current="2")


def _digest(requests: Any, record: dict[str, Any], raw: bytes, version: str | None = None) -> ContentDigest:
    request, opened = requests.opened(record)
    return content_digest(KEYS, request, opened, raw, key_version=version)


def _fundings(requests: Any) -> list[dict[str, Any]]:
    return [requests.internal_funding(), requests.aft_funding(), requests.pis_funding()]


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_what_is_not_content_never_changes_the_digest(requests: Any, data: st.DataObject) -> None:
    """L8: fresh encryption, times, correlation id, metadata and unset optional fields leave it as it is."""
    kind = data.draw(st.integers(0, 2))
    first = _digest(requests, requests.record(funding=_fundings(requests)[kind], fx_quote=requests.quote()), b"one")
    again = requests.record(
        funding=_fundings(requests)[kind],
        fx_quote=requests.quote(expires_at=requests.now + timedelta(days=data.draw(st.integers(0, 9)))),
        requested_at=requests.now + timedelta(seconds=data.draw(st.integers(-99, 99))),
        expires_at=data.draw(st.sampled_from([None, requests.now, requests.now + timedelta(days=2)])),
        correlation_id=data.draw(st.text(max_size=9)),
        metadata=data.draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)),
        purpose=data.draw(st.sampled_from([None, ""])),
    )
    second = _digest(requests, again, b"two")
    assert first.bytes_hmac != second.bytes_hmac
    assert first.content_hmac == second.content_hmac
    assert same_content(first, second)


def _paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        return [found for name, item in value.items() for found in _paths(item, (*path, name))]
    return [path]


NOT_CONTENT = {
    ("requested_at",),
    ("expires_at",),
    ("correlation_id",),
    ("metadata", "batch"),
    ("fx_quote", "expires_at"),
}


def _changed(requests: Any, name: str, value: Any) -> Any:
    """Another value of the same type; for a JWE, a JWE over other content."""
    if name == "personal_data":
        return requests.seal(requests.parties() | {"recipient": {"name": "Somebody Else"}})
    if name == "encrypted_card":
        return requests.seal({"primary_account_number": "4957030100009952"})
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, timedelta):
        return value
    if hasattr(value, "tzinfo"):
        return value + timedelta(seconds=1)
    return {"INTERNAL": "PIS", "CARD": "ACCOUNT", "APPROVED": "DECLINED", "EXECUTED": "FAILED"}.get(value, f"{value}x")


def test_every_content_field_changes_the_digest(requests: Any) -> None:
    """P5, L8: amount, corridor, funding, destination, quote and parties; each leaf of the record, one at a time."""
    tried = 0
    for funding in _fundings(requests):
        record = requests.record(funding=funding, fx_quote=requests.quote(), purpose="gift")
        stored = _digest(requests, record, b"stored")
        for path in _paths(record):
            other = copy.deepcopy(record)
            target = other
            for name in path[:-1]:
                target = target[name]
            if path in NOT_CONTENT or target[path[-1]] is None:
                continue
            target[path[-1]] = _changed(requests, path[-1], target[path[-1]])
            incoming = _digest(requests, other, b"incoming")
            assert not same_content(stored, incoming), path
            tried += 1
    assert tried > 50


@pytest.mark.parametrize("party", ["sender", "recipient"])
@pytest.mark.parametrize(
    "field", ["name", "first_name", "last_name", "date_of_birth", "nationality", "account_reference"]
)
def test_every_party_field_is_content(requests: Any, party: str, field: str) -> None:
    """L8: the decrypted party fields."""
    stored = _digest(requests, requests.record(), b"stored")
    parties = requests.parties()
    value = {"date_of_birth": "1980-02-03", "nationality": "SE"}.get(field, "Another Value")
    parties[party] = parties[party] | {field: value}
    incoming = _digest(requests, requests.record(personal_data=requests.seal(parties)), b"incoming")
    assert not same_content(stored, incoming)


def test_equal_bytes_are_equal_whatever_they_decrypt_to(requests: Any) -> None:
    """L8: a copy is a copy, even when the key that opened it is gone."""
    request, opened = requests.opened(requests.record())
    stored = content_digest(KEYS, request, opened, b"raw")
    lost = replace(opened, personal=Unreadable("no key"), destination_card=Unreadable("no key"))
    incoming = content_digest(KEYS, request, lost, b"raw")
    assert stored.content_hmac != incoming.content_hmac
    assert same_content(stored, incoming)


def test_two_unreadable_requests_are_equal_only_by_their_text(requests: Any) -> None:
    """P5: what cannot be opened is not assumed to be the same."""
    one = _digest(requests, requests.record(personal_data="junk-1"), b"1")
    assert same_content(one, _digest(requests, requests.record(personal_data="junk-1"), b"2"))
    assert not same_content(one, _digest(requests, requests.record(personal_data="junk-2"), b"2"))


def test_accounts_compare_by_what_they_decrypt_to(requests: Any) -> None:
    """L8: a destination that is not offered yet is compared all the same; member order is no content."""

    def record(account: dict[str, str]) -> dict[str, Any]:
        destination = requests.card_destination() | {
            "kind": "ACCOUNT",
            "card": None,
            "account": {"encrypted_account": requests.seal(account)},
        }
        return requests.record(destination=destination)  # type: ignore[no-any-return]

    stored = _digest(requests, record({"iban": "GB00", "bic": "X"}), b"1")
    assert same_content(stored, _digest(requests, record({"bic": "X", "iban": "GB00"}), b"2"))
    assert not same_content(stored, _digest(requests, record({"bic": "X", "iban": "GB01"}), b"3"))
    assert "GB00" not in repr(OpaqueDetails(canonical="GB00"))


def test_an_old_row_is_compared_under_its_own_key(requests: Any) -> None:
    """L8: keys are versioned and live as long as the rows."""
    stored = _digest(requests, requests.record(), b"1", version="1")
    assert stored.key_version == "1"
    assert KEYS.current_version == "2"
    assert same_content(stored, _digest(requests, requests.record(), b"2", version=stored.key_version))
    with pytest.raises(ValueError, match="different key versions"):
        same_content(stored, _digest(requests, requests.record(), b"2"))
    with pytest.raises(ContentKeyUnknown, match="'0'"):
        _digest(requests, requests.record(), b"1", version="0")


def test_the_hash_is_keyed_and_its_form_is_pinned(requests: Any) -> None:
    """PCI DSS 3.5.1.1: a keyed hash. A change of this form would refuse every repeat of a stored payout (L8)."""
    request, opened = requests.opened(requests.record(funding=requests.pis_funding(), fx_quote=requests.quote()))
    digest = content_digest(KEYS, request, opened, b"raw")
    form = (
        '{"destination_card":{"number":"4957030420210462"},'
        '"personal":{"recipient":{"name":"Tomas Okafor"},"sender":{"address":{"city":"Leeds","country":"GB",'
        '"line1":"1 High Street","postal_code":"LS1 1AA"},"name":"Mara Lindqvist"}},'
        '"request":{"amount":{"amount_minor":"12405","currency":"USD"},"business_application_id":"AA",'
        '"corridor":{"source_country":"US","source_currency":"USD","target_country":"US","target_currency":"USD"},'
        '"destination":{"kind":"CARD"},"funding":{"kind":"PIS","pis":{"payment_id":"p-1","status":"EXECUTED"}},'
        '"fx_quote":{"quote_id":"q-1","rate":"17.0542"},"originator_id":"acme","payout_id":"po_01JAB7Q2Z8"}}'
    )
    key = bytes(range(32, 64))
    assert digest.content_hmac == hmac.digest(key, b"payout-content/1\0" + form.encode(), "sha256")
    assert digest.bytes_hmac == hmac.digest(key, b"payout-bytes/1\0raw", "sha256")


def test_keys_are_checked_at_start_and_never_shown() -> None:
    """P6."""
    with pytest.raises(ContentKeyInvalid, match="fewer than 32 bytes"):
        ContentKeys({"1": b"too short"}, current="1")
    with pytest.raises(ContentKeyInvalid, match="not configured"):
        ContentKeys({"1": bytes(32)}, current="2")
    assert repr(KEYS) == "ContentKeys(current='2', versions=['1', '2'])"
