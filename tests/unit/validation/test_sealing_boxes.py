"""Boxes open where they belong and nowhere else; errors hold no content (P6, K6)."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto import jwe, jwk

from processors.sealing import (
    BoxNotOpened,
    EnvelopeOpener,
    EnvelopeSealer,
    Sealer,
    SealingError,
    SealingKeyInvalid,
    SealingKeyUnknown,
    load_private_key,
    load_public_key,
)

KEYS = {"2026-01": bytes(range(32)), "2026-07": bytes(range(32, 64))}
PLANTED = b"4111111111111111"


@given(st.binary(max_size=2000), st.text(max_size=20), st.text(max_size=20))
def test_a_box_opens_for_its_own_purpose_and_payout(plaintext: bytes, purpose: str, subject: str) -> None:
    """S2: the sealed body that is resent is the one that was sealed."""
    sealer = Sealer(KEYS, "2026-07")
    assert sealer.open(sealer.seal(plaintext, purpose, subject), purpose, subject) == plaintext


@given(st.lists(st.text(max_size=6), min_size=4, max_size=4))
def test_a_box_moved_to_another_row_or_column_does_not_open(names: list[str]) -> None:
    """The context is part of the box, and no two contexts run together ("ab"+"c" is not "a"+"bc")."""
    sealer = Sealer(KEYS, "2026-07")
    box = sealer.seal(PLANTED, names[0], names[1])
    if names[:2] == names[2:]:
        return
    with pytest.raises(BoxNotOpened):
        sealer.open(box, names[2], names[3])


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_noticed(position: int, change: int) -> None:
    """Header, nonce, content and tag are all authenticated."""
    sealer = Sealer(KEYS, "2026-07")
    box = bytearray(sealer.seal(PLANTED, "body", "po_1"))
    box[position % len(box)] ^= change
    with pytest.raises(SealingError) as caught:
        sealer.open(bytes(box), "body", "po_1")
    assert PLANTED.decode() not in str(caught.value)


@given(st.binary(max_size=120))
def test_junk_is_no_box(junk: bytes) -> None:
    """P8: only the declared errors."""
    with pytest.raises(SealingError):
        Sealer(KEYS, "2026-07").open(junk, "body", "po_1")


def test_retired_keys_open_and_missing_keys_are_named_as_such() -> None:
    """Rotation: old boxes open as long as their key is configured."""
    box = Sealer(KEYS, "2026-01").seal(PLANTED, "body", "po_1")
    assert Sealer(KEYS, "2026-07").open(box, "body", "po_1") == PLANTED
    with pytest.raises(SealingKeyUnknown):
        Sealer({"2026-07": KEYS["2026-07"]}, "2026-07").open(box, "body", "po_1")


@pytest.mark.parametrize("keys", [{}, {"a": b"short"}, {"b": bytes(32)}, {"": bytes(32)}, {"x" * 256: bytes(32)}])
def test_wrong_keys_are_refused_at_start_without_being_shown(keys: dict[str, bytes]) -> None:
    """P6: a key never stands in an error."""
    with pytest.raises(SealingKeyInvalid) as caught:
        Sealer(keys, "a")
    assert "short" not in str(caught.value)


def test_a_sealer_shows_key_ids_only() -> None:
    """P6."""
    assert repr(Sealer(KEYS, "2026-07")) == "Sealer(current='2026-07', keys=['2026-01', '2026-07'])"


def test_too_large_a_plaintext_is_refused() -> None:
    """Every body is bounded."""
    with pytest.raises(ValueError, match="exceed"):
        Sealer(KEYS, "2026-07").seal(bytes(1024 * 1024 + 1), "body", "po_1")


def test_an_empty_record_opens_again_and_only_for_its_key(private_jwk: dict[str, Any]) -> None:
    """K6: a tombstone is a dead letter too; the JWE library mistakes its empty plaintext for a failure."""
    envelope = EnvelopeSealer(private_jwk).seal(b"")
    assert EnvelopeOpener([private_jwk]).open(envelope) == b""
    other = jwk.JWK.generate(kty="RSA", size=2048, kid="party-1").export_private(as_dict=True)
    for damaged, key in ((envelope[:-3] + b"AAA", private_jwk), (envelope, other)):
        with pytest.raises(BoxNotOpened):
            EnvelopeOpener([key]).open(damaged)


def test_an_envelope_opens_with_the_private_key_only(private_jwk: dict[str, Any]) -> None:
    """K6: what writes a dead letter cannot read it."""
    sealer = EnvelopeSealer(private_jwk)
    envelope = sealer.seal(PLANTED * 20_000)
    assert EnvelopeOpener([private_jwk]).open(envelope) == PLANTED * 20_000
    assert PLANTED not in envelope
    assert PLANTED not in base64.b64decode(envelope + b"==", altchars=b"-_")
    assert not sealer._key.has_private
    other = jwk.JWK.generate(kty="RSA", size=2048, kid="other").export_private(as_dict=True)
    with pytest.raises(SealingKeyUnknown):
        EnvelopeOpener([other]).open(envelope)
    with pytest.raises(BoxNotOpened):
        EnvelopeOpener([other | {"kid": "party-1"}]).open(envelope)


def test_pem_keys_are_accepted_and_named_by_thumbprint() -> None:
    """Operators have PEM files; both halves get the same id."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert EnvelopeOpener([private]).open(EnvelopeSealer(public).seal(b"x")) == b"x"


@pytest.mark.parametrize("source", [b"", "no key", "{}", '{"kty":"oct","k":"AAAA"}', {"kty": "RSA"}, b"\xff\xff"])
def test_what_is_no_rsa_key_is_refused(source: Any) -> None:
    """Errors name a cause, never a library's stack trace."""
    with pytest.raises(SealingKeyInvalid):
        load_private_key(source)


def test_a_small_or_public_key_is_refused_where_it_is_not_enough(private_jwk: dict[str, Any]) -> None:
    """RSA under 2048 bits is not safe; a public key cannot open."""
    small = jwk.JWK.from_pem(
        rsa.generate_private_key(public_exponent=65537, key_size=1024).private_bytes(  # noqa: S505 - to be refused
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    with pytest.raises(SealingKeyInvalid, match="2048"):
        EnvelopeSealer(small.export_public(as_dict=True))
    with pytest.raises(SealingKeyInvalid, match="public key"):
        load_private_key({name: private_jwk[name] for name in ("kty", "n", "e", "kid")})


def _token(private_jwk: dict[str, Any], plaintext: bytes = b"{}", /, **header: Any) -> bytes:
    protected = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": "party-1"} | header
    kept = {name: value for name, value in protected.items() if value is not None}
    algorithms = ["RSA-OAEP", "RSA-OAEP-256", "RSA1_5", "A256GCM", "A128GCM", "A128CBC-HS256"]
    token = jwe.JWE(plaintext, protected=json.dumps(kept), algs=algorithms)
    token.add_recipient(jwk.JWK(**private_jwk))
    serialized: str = token.serialize(compact=True)
    return serialized.encode()


def test_only_the_published_algorithms_are_accepted(private_jwk: dict[str, Any]) -> None:
    """RSA-OAEP-256 with A256GCM or A128GCM; a downgrade, compression or an unknown header does not open."""
    opener = EnvelopeOpener([private_jwk])
    assert opener.open(_token(private_jwk)) == b"{}"
    assert opener.open(_token(private_jwk, enc="A128GCM")) == b"{}"
    for header in ({"alg": "RSA-OAEP"}, {"enc": "A128CBC-HS256"}, {"zip": "DEF"}, {"jku": "https://x"}):
        with pytest.raises(BoxNotOpened):
            opener.open(_token(private_jwk, **header))
    with pytest.raises(SealingKeyUnknown):
        opener.open(_token(private_jwk, kid=None))


def test_a_compressed_token_is_refused_before_it_is_inflated(private_jwk: dict[str, Any]) -> None:
    """A few kilobytes must not become gigabytes."""
    bomb = _token(private_jwk, bytes(10_000_000), zip="DEF")
    assert len(bomb) < 20_000
    with pytest.raises(BoxNotOpened, match="compressed"):
        EnvelopeOpener([private_jwk]).open(bomb)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_damaged_envelope_raises_only_the_declared_errors(private_jwk: dict[str, Any], data: st.DataObject) -> None:
    """P8, P6."""
    envelope = bytearray(EnvelopeSealer(private_jwk).seal(PLANTED))
    for _ in range(data.draw(st.integers(min_value=1, max_value=3))):
        envelope[data.draw(st.integers(0, len(envelope) - 1))] = data.draw(st.integers(0, 255))
    try:
        opened = EnvelopeOpener([private_jwk]).open(bytes(envelope))
    except SealingError as error:
        opened = PLANTED
        assert PLANTED.decode() not in str(error)  # noqa: PT017 - not raising at all is right, too
    assert opened == PLANTED


def test_a_key_of_an_unknown_kind_is_refused() -> None:
    """The library's own error must not leave; found by fuzzing: one bit of the algorithm's number is another kind."""
    public = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    rsa_encryption = bytes.fromhex("2a864886f70d010101")
    other = der.replace(rsa_encryption, bytes.fromhex("2a864886c22d010101"))
    pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(other) + b"-----END PUBLIC KEY-----\n"
    with pytest.raises(SealingKeyInvalid):
        load_public_key(pem)
