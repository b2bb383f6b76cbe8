"""What only we can open: personal data in JWE, Visa's encrypted answers, sealed columns, and the keys to them."""

import base64
import functools
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

from jwcrypto import jwe, jwk

from processors.personal_data import PartyKeys, PersonalDataUnreadable
from processors.sealing import EnvelopeOpener, Sealer, SealingError, load_private_key, load_public_key
from processors.secrets import Secret
from processors.visa.exchange import BodyProblem
from processors.visa.mle import DecryptionKey, MessageEncryption, MleError
from processors.visa.reply_body import read_body
from tests.fuzz.harness import Target, check, check_error
from tests.fuzz.values import CARDS, change_json, hostile_text
from tests.unit.visa.visa_testbed import mle_pair

KEY_ID: Final = "fuzz-key"
_SEALING_KEY: Final = bytes(range(32))
_PARTIES: Final = {
    "sender": {
        "name": "Mara Lindqvist", "date_of_birth": "1980-02-29", "nationality": "SE", "account_reference": "acc-1",
        "address": {"line1": "1 High Street", "city": "Leeds", "state": "CA", "postal_code": "94404", "country": "US"},
    },
    "recipient": {"name": "Tomas Okafor", "first_name": "Tomas", "last_name": "Okafor"},
}  # fmt: skip
_CARD: Final = {"primary_account_number": CARDS[0], "expiry": "2031-12"}


@functools.cache
def key() -> jwk.JWK:
    """The processor's pair of this process: nothing in an input depends on its numbers."""
    return jwk.JWK.generate(kty="RSA", size=2048, kid=KEY_ID)


def token_of(header: bytes, plaintext: bytes, recipient: jwk.JWK) -> str | None:
    """A JWE that decrypts, under whatever header the input asks for; None where the library cannot make it."""
    try:
        made = jwe.JWE(plaintext, protected=header.decode("utf-8", "replace"), recipient=recipient)
        token: str = made.serialize(compact=True)
    except Exception:  # noqa: BLE001 - a header that the library does not write is one that we never open
        return None
    return token


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _tampered(token: str, header: bytes, changes: bytes) -> str:
    """The token under another header text, and with bytes of its parts changed: pairs of (place, xor)."""
    parts = token.split(".")
    if header:
        parts[0] = _b64(header)
    text = bytearray(".".join(parts).encode())
    for place, change in zip(changes[::2], changes[1::2], strict=False):
        text[place * len(text) // 256] ^= change
    return text.decode("latin-1")


def token_from(data: bytes, recipient: jwk.JWK) -> str:
    """The input's token: the first byte says how it is made, and what is made is separated by zero bytes."""
    how, rest = data[:1], data[1:]
    if how <= b"?":
        return rest.decode("utf-8", "surrogateescape")
    header, _, content = rest.partition(b"\0")
    if how <= b"\x9f":
        return token_of(header, content, recipient) or ""
    made = token_of(_header(), content, recipient) or ""
    return _tampered(made, b"" if how >= b"\xd0" else header, content)


def _header(enc: str = "A256GCM") -> bytes:
    return json.dumps({"alg": "RSA-OAEP-256", "enc": enc, "kid": KEY_ID}).encode()


def token_seeds() -> Iterator[bytes]:
    """Tokens of every way that `token_from` knows."""
    for document in (_PARTIES, _CARD, {"account_number": "DE00 0000"}, [], ""):
        plaintext = json.dumps(document).encode()
        yield b"\x60" + _header() + b"\0" + plaintext
        yield b"\x60" + _header("A128GCM") + b"\0" + plaintext
        yield b"\xe0" + b"\0" + plaintext
    yield b"\x60" + _header() + b"\0"
    yield b"\xa0" + _header() + b"\0" + b"\x00\x00"
    yield b"\x60" + json.dumps({"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": KEY_ID, "zip": "DEF"}).encode() + b"\0x"
    yield b"\x10" + b".".join([base64.urlsafe_b64encode(_header()).rstrip(b"="), *[b"AAAA"] * 4])
    yield b"\x10" + b'{"protected":"e30","ciphertext":"AA"}'


def change_token(data: bytes, random: Random) -> bytes:
    """Another header or another plaintext, both still JSON."""
    header, _, plaintext = data[1:].partition(b"\0")
    if data[:1] <= b"?" or data[:1] > b"\x9f":
        return data
    if random.random() < 0.3:
        return data[:1] + _changed_json(header, random).replace(b"\0", b"") + b"\0" + plaintext
    return data[:1] + header + b"\0" + _changed_json(plaintext, random)


def _changed_json(text: bytes, random: Random) -> bytes:
    try:
        return json.dumps(change_json(json.loads(text), random)).encode()
    except (ValueError, RecursionError):
        return hostile_text(random).encode("utf-8", "replace")


# --- personal data and dead letters -------------------------------------------------------------------------------


@functools.cache
def _party_keys() -> PartyKeys:
    return PartyKeys([key().export(as_dict=True)])


@functools.cache
def _opener() -> EnvelopeOpener:
    return EnvelopeOpener([key().export(as_dict=True)])


def _jwe(data: bytes) -> None:
    token = token_from(data, key())
    for opens in (_party_keys().open_personal_data, _party_keys().open_card, _party_keys().open_opaque):
        try:
            opened = opens(token)
        except PersonalDataUnreadable as error:
            check_error(error)
        else:
            check(not any(card in repr(opened) for card in CARDS), "an opened field prints its content")
    _refused_or(SealingError, lambda: _opener().open(token.encode("utf-8", "surrogatepass")))


def _refused_or(kind: type[Exception], call: Callable[[], Any]) -> Any:
    try:
        return call()
    except kind as error:
        check_error(error)
        return None


# --- Visa's answers -----------------------------------------------------------------------------------------------


@functools.cache
def _encryption() -> tuple[MessageEncryption, jwk.JWK]:
    pair = mle_pair()
    decryption = DecryptionKey(KEY_ID, Secret(pair.private_pem.decode()))
    ours = MessageEncryption(key_id=KEY_ID, server_certificate_pem=pair.certificate_pem, decryption_keys=[decryption])
    return ours, jwk.JWK.from_pem(pair.private_pem)


def _mle(data: bytes) -> None:
    encryption, recipient = _encryption()
    token = token_from(data, recipient)
    _refused_or(MleError, lambda: encryption.decrypt(token))
    body = json.dumps({"encData": token}).encode()
    value, problem = read_body(body, encryption.decrypt)
    check(problem is None or isinstance(problem, BodyProblem), "a body is neither read nor refused")
    check(problem is not BodyProblem.UNDECRYPTABLE or value is None, "what did not decrypt has a value")


# --- sealed columns, and keys -------------------------------------------------------------------------------------


@functools.cache
def _sealer() -> Sealer:
    return Sealer({"k1": _SEALING_KEY, "k2": _SEALING_KEY[::-1]}, "k1")


def _sealed(data: bytes) -> None:
    """The first byte chooses: a box as it comes, a good box with changes, or a key file."""
    if not data:
        return
    if data[0] < 64:
        _refused_or(SealingError, lambda: _sealer().open(data[1:], "request", "payout-0001"))
    elif data[0] < 128:
        _open_changed(data[1:])
    else:
        _load_keys(data[1:])


def _open_changed(changes: bytes) -> None:
    box = _sealer().seal(b"plain", "request", "payout-0001")
    changed = bytearray(box)
    for place, change in zip(changes[::2], changes[1::2], strict=False):
        changed[place % len(changed)] ^= change
    opened = _refused_or(SealingError, lambda: _sealer().open(bytes(changed), "request", "payout-0001"))
    check((opened is not None) == (bytes(changed) == box), "a changed box opens, or a good one does not")


def _load_keys(text: bytes) -> None:
    for load in (load_public_key, load_private_key, PartyKeys.from_jwks):
        _refused_or(SealingError, functools.partial(load, text))  # type: ignore[arg-type]


def _sealed_seeds() -> Iterator[bytes]:
    yield b"\x00" + _sealer().seal(b"plain", "request", "payout-0001")
    yield b"\x00\x01\x02k2" + bytes(40)
    yield b"\x50\x05\x01"
    public = key().export_public()
    yield b"\x90" + public.encode()
    yield b"\x90" + json.dumps({"keys": [json.loads(public)]}).encode()
    yield b"\x90" + json.dumps({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "x"}).encode()
    yield b"\x90" + json.dumps({"kty": "oct", "k": "AAAA"}).encode()
    yield b"\x90" + key().export_to_pem()
    yield b"\x90" + mle_pair().certificate_pem
    yield b"\x90" + json.dumps({"keys": []}).encode()
    small = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}
    yield b"\x90" + json.dumps(small).encode()


def _change_sealed(data: bytes, random: Random) -> bytes:
    if not data or data[0] < 128:
        return data
    return data[:1] + _changed_json(data[1:], random)


TARGETS: Final = (
    Target("jwe", "personal data, cards and dead letters in compact JWE", _jwe, token_seeds, change_token),
    Target("mle", "Visa's encrypted answers", _mle, token_seeds, change_token),
    Target("sealed_boxes", "sealed columns and key files", _sealed, _sealed_seeds, _change_sealed),
)
