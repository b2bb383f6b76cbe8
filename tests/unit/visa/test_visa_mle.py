"""Message level encryption: round trips, two keys at once, and errors that show nothing (P6, S4)."""

import json
import traceback

import pytest
from jwcrypto import jwe, jwk

from processors.secrets import Secret
from processors.visa.exchange import BodyProblem
from processors.visa.mle import ContentEncryption, DecryptionKey, MessageEncryption, MleError
from processors.visa.reply_body import read_body
from tests.unit.visa.visa_testbed import MleKeys

PLAINTEXT = b'{"amount":124.05,"recipientPrimaryAccountNumber":"4957030420210462"}'


def header_of(compact: str) -> dict[str, object]:
    token = jwe.JWE()
    token.deserialize(compact)
    header: dict[str, object] = token.jose_header
    return header


@pytest.mark.parametrize("content_encryption", ["A128GCM", "A256GCM"])
def test_a_request_reaches_the_holder_of_the_servers_key(
    mle_keys: MleKeys, content_encryption: ContentEncryption
) -> None:
    """Visa's encryption guide: RSA-OAEP-256, kid and iat in epoch milliseconds in the protected header."""
    ours = MessageEncryption(
        key_id="key-2026",
        server_certificate_pem=mle_keys.server.certificate_pem,
        decryption_keys=[DecryptionKey("key-2026", Secret(mle_keys.client.private_pem.decode()))],
        content_encryption=content_encryption,
        clock=lambda: 1_763_570_959.123,
    )
    compact = json.loads(ours.encrypt(PLAINTEXT))["encData"]
    assert header_of(compact) == {
        "alg": "RSA-OAEP-256", "enc": content_encryption, "kid": "key-2026", "iat": 1_763_570_959_123,
    }  # fmt: skip
    token = jwe.JWE()
    token.deserialize(compact, jwk.JWK.from_pem(mle_keys.server.private_pem))
    assert token.payload == PLAINTEXT
    assert b"4957030420210462" not in ours.encrypt(PLAINTEXT)


def test_each_encryption_is_fresh(mle_keys: MleKeys) -> None:
    """S3: the same plaintext in a fresh JWE for every attempt."""
    ours = mle_keys.ours
    assert ours.encrypt(PLAINTEXT) != ours.encrypt(PLAINTEXT)


@pytest.mark.parametrize(("key_id", "retired"), [("key-2026", False), ("key-2025", True), ("unheard-of", True)])
def test_answers_to_the_new_and_the_retired_key_are_read(mle_keys: MleKeys, key_id: str, retired: bool) -> None:
    """A renewal of keys loses no answer, even one that names its key wrongly."""
    compact = json.loads(mle_keys.visas(key_id, retired=retired).encrypt(b'{"actionCode":"00"}'))["encData"]
    assert mle_keys.ours.decrypt(compact) == b'{"actionCode":"00"}'


def protected(**header: str) -> dict[str, str]:
    return {"alg": "RSA-OAEP-256", "enc": "A128GCM", **header}


def token_to(pem: bytes, header: dict[str, str]) -> str:
    token = jwe.JWE(PLAINTEXT, protected=json.dumps(header), recipient=jwk.JWK.from_pem(pem))
    compact: str = token.serialize(compact=True)
    return compact


def test_what_cannot_be_trusted_is_not_decrypted_and_not_shown(mle_keys: MleKeys) -> None:
    """S4, P6: another's key, another algorithm, compression, damage: one error without content."""
    ours, client = mle_keys.ours, mle_keys.client.certificate_pem
    good = token_to(client, protected())
    assert ours.decrypt(good) == PLAINTEXT
    head, key, iv, text, tag = good.split(".")
    for bad in (
        token_to(mle_keys.server.certificate_pem, protected()),
        token_to(client, protected(zip="DEF")),
        token_to(client, {"alg": "RSA-OAEP", "enc": "A128GCM"}),
        token_to(client, {"alg": "RSA-OAEP-256", "enc": "A128CBC-HS256"}),
        ".".join([head, key, iv, text, "AAAA" + tag[4:]]),
        ".".join([head, key, iv, text]),
        ".".join(["e30", key, iv, text, tag]),
        json.dumps({"protected": head, "encrypted_key": key, "iv": iv, "ciphertext": text, "tag": tag}),
        "",
        "....",
        "\u0000",
    ):
        with pytest.raises(MleError) as caught:
            ours.decrypt(bad)
        shown = "".join(traceback.format_exception(caught.value))
        assert "4957030420210462" not in shown
        assert "PRIVATE" not in shown


def test_keys_that_are_not_safe_are_refused_at_start(mle_keys: MleKeys) -> None:
    """A worker does not start on keys it could not use; nothing of them is shown."""
    good = DecryptionKey("key-2026", Secret(mle_keys.client.private_pem.decode()))
    public = DecryptionKey("key-2026", Secret(mle_keys.client.certificate_pem.decode()))
    server = mle_keys.server.certificate_pem
    for certificate, keys in (
        (b"no certificate", [good]),
        (mle_keys.server.private_pem, [good]),
        (server, []),
        (server, [good, good]),
        (server, [public]),
        (server, [DecryptionKey("key-2026", Secret("no key"))]),
    ):
        with pytest.raises(MleError) as caught:
            MessageEncryption(key_id="key-2026", server_certificate_pem=certificate, decryption_keys=keys)
        assert "BEGIN" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(MleError, match="header"):
        MessageEncryption(key_id="a\r\nb", server_certificate_pem=server, decryption_keys=[good])
    assert "PRIVATE" not in repr(mle_keys.ours) + repr(good)


@pytest.mark.parametrize(
    ("content", "body", "problem"),
    [
        (b'{"actionCode":"00"}', {"actionCode": "00"}, None),
        (b"", None, BodyProblem.EMPTY),
        (b"  \r\n", None, BodyProblem.EMPTY),
        (b"id_1", "id_1", BodyProblem.NOT_JSON),
        (b'{"actionCode":"05","actionCode":"00"}', '{"actionCode":"05","actionCode":"00"}', BodyProblem.NOT_JSON),
        (b'{"amount":NaN}', '{"amount":NaN}', BodyProblem.NOT_JSON),
        (b"<" * 300, None, BodyProblem.NOT_JSON),
        (b"\xff\xfe", None, BodyProblem.NOT_JSON),
        (b"[" * 100_000, None, BodyProblem.NOT_JSON),
        (b"1" * 5_000, None, BodyProblem.NOT_JSON),
        (b'{"amount":1e9999999999999999999}', '{"amount":1e9999999999999999999}', BodyProblem.NOT_JSON),
        (b'{"encData":"x.y.z"}', None, BodyProblem.UNDECRYPTABLE),
        (b'{"encData":5}', None, BodyProblem.UNDECRYPTABLE),
    ],
)
def test_a_body_is_read_one_way_or_not_at_all(
    mle_keys: MleKeys, content: bytes, body: object, problem: BodyProblem | None
) -> None:
    """S4: two action codes in one body, NaN, bombs and foreign ciphertext are unreadable, never a guess."""
    assert read_body(content, mle_keys.ours.decrypt) == (body, problem)


def test_an_encrypted_body_without_our_keys_is_undecryptable(mle_keys: MleKeys) -> None:
    """S4: undecryptable is ambiguous; an error in clear is still read."""
    sealed = mle_keys.visas().encrypt(b'{"actionCode":"00"}')
    assert read_body(sealed, None) == (None, BodyProblem.UNDECRYPTABLE)
    assert read_body(sealed, mle_keys.ours.decrypt) == ({"actionCode": "00"}, None)
