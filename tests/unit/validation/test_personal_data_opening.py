"""Personal data and cards open only when they follow the published schemas, and never show themselves (P6, K7)."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto import jwk

from processors.personal_data import (
    LARGEST_JWE_BYTES,
    Card,
    PartyKeys,
    PersonalDataUnreadable,
    read_account,
    read_alias,
    read_wallet,
    seal_for_processor,
)
from processors.sealing import SealingKeyInvalid, encrypt_compact, load_public_key
from processors.validation.opened import Unreadable

PLANTED = "4111111111111111"


def _seal_bytes(requests: Any, plaintext: bytes) -> str:
    return encrypt_compact(load_public_key(requests.public_jwk), plaintext)


def test_both_parties_and_a_card_open(requests: Any) -> None:
    """The originator's helper and the processor understand each other."""
    parties = requests.parties()
    parties["recipient"] |= {"date_of_birth": "1980-02-03", "nationality": "PH"}
    personal = requests.keys.open_personal_data(requests.seal(parties))
    assert personal.sender.name == "Mara Lindqvist"
    assert personal.sender.address.country == "GB"
    assert personal.recipient.date_of_birth == "1980-02-03"
    card = requests.keys.open_card(requests.seal({"primary_account_number": PLANTED, "expiry": "2031-12"}))
    assert card.number.reveal() == PLANTED
    assert card.expiry == "2031-12"


def test_what_was_opened_never_prints(requests: Any) -> None:
    """P6: repr, str and format show names of fields only."""
    card = requests.keys.open_card(requests.seal({"primary_account_number": PLANTED}))
    personal = requests.keys.open_personal_data(requests.seal(requests.parties()))
    shown = f"{card!r} {card} {[card]} {personal!r} {personal} {personal.sender} {personal.sender.address}"
    for content in (PLANTED, "Mara", "Leeds", "LS1"):
        assert content not in shown
    assert "Party(name, address)" in shown
    assert repr(Card(number=card.number)) == "Card(number)"


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe{}",
        b"[" * 5000,
        b"1" * 5000,
        b'{"sender": {"name": "a"}, "sender": {"name": "b"}, "recipient": {"name": "c"}}',
        b'{"sender": {"name": "a"}, "recipient": {"name": "c"}, "extra": 1}',
        b'{"sender": {"name": "a", "card": "4111111111111111"}, "recipient": {"name": "c"}}',
        b'{"sender": {"name": 4111111111111111}, "recipient": {"name": "c"}}',
        b'{"sender": {"name": NaN}, "recipient": {"name": "c"}}',
        b'{"sender": {"name": ""}, "recipient": {"name": "c"}}',
        b'{"sender": {"name": "a\\u0000b"}, "recipient": {"name": "c"}}',
        b'{"sender": {"name": "a\\ud800b"}, "recipient": {"name": "c"}}',
        b'{"sender": {"name": "a", "nationality": "SE\\n"}, "recipient": {"name": "c"}}',
        b'{"sender": {"name": "a"}, "recipient": {"name": "' + b"x" * 201 + b'"}}',
        b'{"sender": {"name": "a"}, "recipient": {"name": "c", "date_of_birth": "3 Feb"}}',
        b'{"sender": {"name": "a"}}' + b" " * 17_000,
    ],
)
def test_what_does_not_follow_the_schema_is_unreadable(requests: Any, plaintext: bytes) -> None:
    """K7, P6: refused with a cause, and nothing of it in the message."""
    with pytest.raises(PersonalDataUnreadable) as caught:
        requests.keys.open_personal_data(_seal_bytes(requests, plaintext))
    assert "4111" not in str(caught.value)
    assert caught.value.__context__ is None or not hasattr(caught.value.__context__, "doc"), (
        "carries the document along"
    )


@pytest.mark.parametrize(
    "document",
    [
        {"primary_account_number": "411111111111"},
        {"primary_account_number": "4111111111111111\n"},
        {"primary_account_number": "4111 1111 1111 1111"},
        {"primary_account_number": 4111111111111111},
        {"primary_account_number": "４１１１１１１１１１１１１１１１"},
        {"primary_account_number": PLANTED, "expiry": "2031-13"},
        {"primary_account_number": PLANTED, "cvv": "123"},
        {"expiry": "2031-12"},
    ],
)
def test_a_card_of_another_form_is_unreadable(requests: Any, document: dict[str, Any]) -> None:
    """PCI DSS 3.3.1: there is no place for a CVV; a card number is 13 to 19 ASCII digits."""
    with pytest.raises(PersonalDataUnreadable) as caught:
        requests.keys.open_card(requests.seal(document))
    assert "4111" not in str(caught.value)


def test_sizes_are_bounded_on_both_sides(requests: Any) -> None:
    """Every body is bounded: the JWE before it is decrypted, the document before it is encrypted."""
    with pytest.raises(PersonalDataUnreadable, match="longer than"):
        requests.keys.open_personal_data("a." * LARGEST_JWE_BYTES)
    with pytest.raises(ValueError, match="at most"):
        requests.seal({"name": "x" * 17_000})


def test_a_key_that_is_not_ours_is_named_as_the_cause(requests: Any) -> None:
    """K7: the originator is told to fetch the published key set."""
    other = jwk.JWK.generate(kty="RSA", size=2048, kid="retired").export_public(as_dict=True)
    with pytest.raises(PersonalDataUnreadable, match="published key set"):
        requests.keys.open_card(seal_for_processor(other, {"primary_account_number": PLANTED}))


def test_keys_come_from_a_key_set_and_give_a_public_one(private_jwk: dict[str, Any]) -> None:
    """The published set holds no private member."""
    keys = PartyKeys.from_jwks(json.dumps({"keys": [private_jwk]}))
    public = json.loads(keys.public_jwks())["keys"]
    assert keys.key_ids == {"party-1"}
    assert not {"d", "p", "q", "dp", "dq", "qi"} & set(public[0])
    sealed = seal_for_processor(public[0], {"primary_account_number": PLANTED})
    assert keys.open_card(sealed).number.reveal() == PLANTED
    assert private_jwk["d"] not in repr(keys)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"keys": {}}', '{"keys": [1]}', '{"keys": []}', '{"keys": [{}]}'])
def test_a_broken_key_set_is_refused_at_start(text: str) -> None:
    """Clear errors at start."""
    with pytest.raises(SealingKeyInvalid):
        PartyKeys.from_jwks(text)


def test_opening_a_request_never_raises(requests: Any) -> None:
    """K7, P8: each field that does not open is marked, the others open."""
    _, opened = requests.opened(requests.record(personal_data="junk", funding=requests.aft_funding()))
    assert isinstance(opened.personal, Unreadable)
    assert isinstance(opened.funding_card, Card)
    assert isinstance(opened.destination_card, Card)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just(PLANTED),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["sender", "recipient", "name", "address", "line1", PLANTED]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@settings(deadline=None, max_examples=120)
@given(document=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_junk_inside_a_good_envelope_raises_only_the_declared_error(requests: Any, document: bytes) -> None:
    """P8, P6: whatever was encrypted to us."""
    token = _seal_bytes(requests, document)
    opened = requests.keys.open_destination
    readers = [lambda text, read=read: read(opened(text)) for read in (read_account, read_alias, read_wallet)]
    for open_token in (
        requests.keys.open_personal_data, requests.keys.open_card, requests.keys.open_opaque, *readers,
    ):  # fmt: skip
        try:
            shown = repr(open_token(token))
        except PersonalDataUnreadable as error:
            shown = str(error)
        assert PLANTED not in shown


@settings(deadline=None, max_examples=150)
@given(token=st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]*(\.[A-Za-z0-9_-]*){4}", fullmatch=True))
def test_junk_tokens_raise_only_the_declared_error(requests: Any, token: str) -> None:
    """P8: text that is no JWE, or only looks like one."""
    with pytest.raises(PersonalDataUnreadable):
        requests.keys.open_personal_data(token)


def test_a_card_number_is_no_alias_and_a_telephone_number_is_one() -> None:
    """P6: the directory must not be asked for a card; thirteen digits of a telephone may pass Luhn by chance."""
    with pytest.raises(PersonalDataUnreadable) as caught:
        read_alias(b'{"alias": "4957030420210462"}')
    assert "4957" not in str(caught.value)
    assert read_alias(b'{"alias": "+4222222222222"}').value.reveal() == "+4222222222222"
