"""P6: keys are made once, read strictly, and never shown."""

import base64
import json
import stat
from pathlib import Path

import pytest
from jwcrypto import jwk

from processors.sealing import EnvelopeOpener
from streams.keys import SECRET_FILES, Keys, KeysUnusable, create_keys, load_keys

SECRET = "bm90LWEta2V5LW5vdC1hLWtleQ"


@pytest.fixture
def copied(keys_directory: Path, tmp_path: Path) -> Path:
    """A set of its own that a test may spoil."""
    directory = tmp_path / "keys"
    directory.mkdir()
    for path in keys_directory.iterdir():
        copy = directory / path.name
        copy.write_bytes(path.read_bytes())
        copy.chmod(path.stat().st_mode)
    return directory


def test_a_fresh_set_works_and_is_private(keys: Keys, keys_directory: Path) -> None:
    """P6: what is sealed opens; secret files are 0600."""
    box = keys.sealer.seal(b"body", "request", "payout-0001")
    assert keys.sealer.open(box, "request", "payout-0001") == b"body"
    private = json.loads((keys_directory / "dead_letter_private.jwk.json").read_text())
    assert EnvelopeOpener([private]).open(keys.dead_letters.seal(b"letter")) == b"letter"
    for name in SECRET_FILES:
        assert stat.S_IMODE((keys_directory / name).stat().st_mode) == 0o600
    public = json.loads((keys_directory / "party_public.jwks.json").read_text())["keys"][0]
    assert not jwk.JWK(**public).has_private


def test_a_worker_does_not_need_the_dead_letters_private_key(copied: Path) -> None:
    """K6: who writes dead letters cannot read them."""
    (copied / "dead_letter_private.jwk.json").unlink()
    load_keys(copied)


def test_keys_are_never_replaced(copied: Path) -> None:
    """Replacing keys loses what they sealed."""
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(KeysUnusable, match="holds keys already"):
        create_keys(copied)
    assert before == {path.name: path.read_bytes() for path in copied.iterdir()}


@pytest.mark.parametrize("name", ["sealing_keys.json", "content_keys.json", "party_private.jwks.json"])
@pytest.mark.parametrize("mode", [0o604, 0o602, 0o666])
def test_a_secret_that_everybody_may_read_or_write_is_refused(copied: Path, name: str, mode: int) -> None:
    """P6: the message says which file and what to do."""
    (copied / name).chmod(mode)
    with pytest.raises(KeysUnusable, match=f"{name}.*chmod"):
        load_keys(copied)


@pytest.mark.parametrize(
    "name", ["sealing_keys.json", "content_keys.json", "party_private.jwks.json", "dead_letter_public.jwk.json"]
)
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    """The message says how to make a set."""
    (copied / name).unlink()
    with pytest.raises(KeysUnusable, match=f"{name} is missing.*payouts keys create"):
        load_keys(copied)


@pytest.mark.parametrize(
    "name", ["sealing_keys.json", "content_keys.json", "party_private.jwks.json", "dead_letter_public.jwk.json"]
)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        json.dumps({"keys": [SECRET]}).encode(),
        json.dumps({"current": "k1", "keys": [SECRET]}).encode(),
        json.dumps({"current": "k1", "keys": {"k1": SECRET}}).encode(),
        json.dumps({"current": "k2", "keys": {"k1": base64.b64encode(b"k" * 32).decode()}}).encode(),
        json.dumps({"current": "k1", "keys": {"k1": 7}}).encode(),
        json.dumps({"kty": "RSA", "n": SECRET, "e": "AQAB"}).encode(),
    ],
)
def test_a_malformed_file_is_one_clear_error_without_its_content(copied: Path, name: str, content: bytes) -> None:
    """P6: whatever is in it."""
    (copied / name).write_bytes(content)
    with pytest.raises(KeysUnusable) as refused:
        load_keys(copied)
    assert str(copied) in str(refused.value)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_keys_do_not_print_themselves(keys: Keys, keys_directory: Path) -> None:
    """P6."""
    sealing = json.loads((keys_directory / "sealing_keys.json").read_text())
    content = json.loads((keys_directory / "content_keys.json").read_text())
    party = json.loads((keys_directory / "party_private.jwks.json").read_text())["keys"][0]
    shown = f"{keys!r} {keys}"
    for secret in (*sealing["keys"].values(), *content["keys"].values(), party["d"], party["p"]):
        assert secret not in shown
        assert repr(base64.urlsafe_b64decode(secret + "==")) not in shown
