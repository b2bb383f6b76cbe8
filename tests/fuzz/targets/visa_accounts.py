"""What Visa may answer about account and wallet payouts, and what the address of its keys may answer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwcrypto import jwk

from processors.payout.outcome import Outcome, OutcomeKind
from processors.visa.account_outcome import outcome_of_payout, outcome_of_payout_query
from processors.visa.exchange import Answered
from processors.visa.jwks import JwksInvalid, read_key_set
from tests.fuzz.harness import Target, check, check_error
from tests.fuzz.targets.visa import answered, change_reply, check_texts
from tests.fuzz.values import CARDS, change_json
from tests.unit.visa.visa_testbed import mle_pair

AMOUNT, CURRENCY, NUMERIC, REFERENCE = "25.00", "USD", "840", "ref-000000000001"
DELIVERED: Final = "PAYMENT_DELIVERED"
BACK: Final = "RETURNED"
UNDELIVERED: Final = frozenset({"CANCELLED", "REJECTED"})
ENDS: Final = frozenset({OutcomeKind.PAID, OutcomeKind.DECLINED, OutcomeKind.RETURNED})
DEFINITE: Final = frozenset({400, 401, 403, 404, 405, 415, 429})
SMALLEST_BITS: Final = 2048


# --- what a person who knows the rules would say ------------------------------------------------------------------


def _check(asked: bool, answer: Answered, body: bytes, outcome: Outcome) -> None:
    """S3, S4, S5, S8: an end is one payout's own word, about our reference and our money."""
    if outcome.kind in ENDS:
        check(answer.status == 200 and answer.body_problem is None, "an end without a readable 200")
        document = json.loads(body)
        rows = document if asked and isinstance(document, list) else [document]
        check(len(rows) == 1, "an end although two payouts have one reference")
        _check_end(rows[0], outcome.kind)
    if outcome.kind is OutcomeKind.NOT_FOUND:
        check(asked and answer.status in (200, 404), "not found, and nobody asked or nobody said so")
    if outcome.kind is OutcomeKind.REFUSED:
        check(answer.status in DEFINITE, "refused without one of the definite answers")
    check_texts(outcome)


def _check_end(payout: Mapping[str, Any], kind: OutcomeKind) -> None:
    status = _said(payout, "status")
    if kind is OutcomeKind.PAID:
        check(status == [DELIVERED], "paid, and it was not delivered")
    elif kind is OutcomeKind.RETURNED:
        check(status == [BACK], "returned, and it did not come back")
    else:
        check(len(status) == 1 and status[0] in UNDELIVERED, "declined, and nobody refused or cancelled it")
    check(all(str(said) == REFERENCE for said in _said(payout, "clientReferenceId")), "another payout's end")
    check(all(_amount(said) == Decimal(AMOUNT) for said in _said(payout, "transactionAmount")), "another amount's end")
    check(all(_is_our_currency(said) for said in _said(payout, "transactionCurrencyCode")), "another currency's end")


def _said(payout: Mapping[str, Any], name: str) -> list[Any]:
    """Every different thing that is said of it."""
    nested = payout.get("transactionDetail")
    places = (payout, nested) if isinstance(nested, dict) else (payout,)
    different: list[Any] = []
    for place in places:
        value = place.get(name)
        if value is not None and value not in different:
            different.append(value)
    return different


def _is_our_currency(said: object) -> bool:
    """By its letters, whatever their case, or by its number."""
    return str(said).upper() == CURRENCY or _amount(said) == Decimal(NUMERIC)


def _amount(said: object) -> Decimal | None:
    try:
        return Decimal(str(said))
    except InvalidOperation:
        return None


# --- answers ------------------------------------------------------------------------------------------------------


def _reply(data: bytes) -> None:
    """A byte for the status, lines of headers, an empty line, the body: judged as a send's answer and a query's."""
    if not data:
        return
    answer, body = answered(data)
    _check(False, answer, body, outcome_of_payout(answer, AMOUNT, CURRENCY, REFERENCE))
    _check(True, answer, body, outcome_of_payout_query(answer, AMOUNT, CURRENCY, REFERENCE))


_DETAIL: Final[Mapping[str, Any]] = {
    "clientReferenceId": REFERENCE, "transactionAmount": 25.00, "transactionCurrencyCode": CURRENCY,
}  # fmt: skip
_PAYOUT: Final[Mapping[str, Any]] = {"payoutId": "A-1", "status": DELIVERED, "transactionDetail": _DETAIL}
_BODIES: Final[tuple[Any, ...]] = (
    _PAYOUT,
    [_PAYOUT],
    [_PAYOUT, _PAYOUT],
    [],
    {**_PAYOUT, "status": "REJECTED"},
    {**_PAYOUT, "status": BACK},
    {**_PAYOUT, "status": "PAYMENT_RECEIVED", "fundingStatus": "NOT_FUNDED"},
    {**_PAYOUT, "status": "PAYMENT_MISLAID"},
    {**_PAYOUT, **_DETAIL, "transactionCurrencyCode": NUMERIC},
    {"payoutId": "A-1", "transactionDetail": {**_DETAIL, "payoutId": "A-2", "status": DELIVERED}},
    {"payoutId": CARDS[0], "status": DELIVERED},
    {"errorResponse": {"status": 404, "details": [{"code": "4003"}]}},
    {"status": 404},
    {"details": [{"code": 4100}]},
)


def _reply_seeds() -> Iterator[bytes]:
    for body in _BODIES:
        for status in (0, 1, 4, 7, 11):
            yield bytes([status]) + b"x-correlation-id: 1763_VDP_WS\n\n" + json.dumps(body).encode()


# --- key sets -----------------------------------------------------------------------------------------------------


def _keys(data: bytes) -> None:
    """B5: whatever the address answers is a set of keys that may be used, or refused in words of our own."""
    try:
        keys = read_key_set(data)
    except JwksInvalid as error:
        check_error(error)
        return
    check(len(keys) > 0, "an empty set was taken")
    for key in keys.values():
        public = serialization.load_pem_public_key(key.key.export_to_pem())
        check(isinstance(public, rsa.RSAPublicKey) and public.key_size >= SMALLEST_BITS, "a key that may not be used")


def _key_seeds() -> Iterator[bytes]:
    public = jwk.JWK.from_pem(mle_pair().private_pem).export_public(as_dict=True)
    entry = {**public, "kid": "key-2026", "use": "enc"}
    entries: Sequence[Any] = (
        [entry], [entry, {**entry, "kid": "key-2027"}], [{**entry, "use": "sig"}], [{"kty": "EC"}, entry], [],
        [{"kty": "RSA", "x5c": ["AAAA"], "kid": "x"}], [{**entry, "e": "AQ"}], [{**entry, "n": "AQAB"}],
        [{**entry, "n": 1}], [None, entry], [{**entry, "kid": 7}], [{**entry, "x5c": ["AAAA"]}],
    )  # fmt: skip
    for keys in entries:
        yield json.dumps({"keys": keys}).encode()
    yield b"[]"
    yield b"<html>"


def _change_keys(data: bytes, random: Random) -> bytes:
    try:
        return json.dumps(change_json(json.loads(data), random)).encode()
    except (ValueError, RecursionError):
        return data


TARGETS: Final = (
    Target("account_reply", "answers about account and wallet payouts", _reply, _reply_seeds, change_reply),
    Target("jwks", "what the address of Visa's keys answers", _keys, _key_seeds, _change_keys),
)
