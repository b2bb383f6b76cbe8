"""Our own keys: for the ledger's columns, dead letters and content hashes, and what originators encrypt to.

A keys directory holds
    sealing_keys.json        {"current": id, "keys": {id: base64 of 32 bytes}}   columns of the ledger
    content_keys.json        the same form                                     content hashes; live as long as the rows
    party_private.jwks.json  private JWK set                                   opens what originators encrypted to us
    party_public.jwks.json   its public halves, for originators
    dead_letter_public.jwk.json / dead_letter_private.jwk.json                 workers need only the public one
Files with secrets must not be readable by others than their owner and group.
"""

import base64
import json
import os
import secrets
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jwcrypto import jwk

from processors.content import ContentKeys
from processors.personal_data import PartyKeys
from processors.sealing import EnvelopeOpener, EnvelopeSealer, Sealer, SealingError

RSA_BITS = 2048
SECRET_FILES = ("sealing_keys.json", "content_keys.json", "party_private.jwks.json", "dead_letter_private.jwk.json")

DEAD_LETTER_KEY_FILE = "dead_letter_private.jwk.json"


class KeysUnusable(Exception):
    """The keys directory cannot be used; the message names the file and what to do, never its content."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a worker needs. Nothing here prints its key material."""

    sealer: Sealer
    content: ContentKeys
    party: PartyKeys
    dead_letters: EnvelopeSealer


def create_keys(directory: Path) -> None:
    """Make a fresh set (0600). Raises KeysUnusable when one is there: replacing keys loses what they sealed."""
    if directory.exists() and any((directory / name).exists() for name in SECRET_FILES):
        raise KeysUnusable(f"{directory} holds keys already; replacing them would make stored payouts unreadable.")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = datetime.now(UTC).strftime("k%Y%m%d")
    for file in ("sealing_keys.json", "content_keys.json"):
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        _write(directory / file, {"current": name, "keys": {name: key}}, secret=True)
    party = jwk.JWK.generate(kty="RSA", size=RSA_BITS, kid=f"party-{name}")
    letters = jwk.JWK.generate(kty="RSA", size=RSA_BITS, kid=f"dead-letters-{name}")
    _write(directory / "party_private.jwks.json", {"keys": [party.export(as_dict=True)]}, secret=True)
    _write(directory / "party_public.jwks.json", {"keys": [party.export_public(as_dict=True)]}, secret=False)
    _write(directory / "dead_letter_private.jwk.json", letters.export(as_dict=True), secret=True)
    _write(directory / "dead_letter_public.jwk.json", letters.export_public(as_dict=True), secret=False)


def load_keys(directory: Path) -> Keys:
    """Read and check. Raises KeysUnusable."""
    try:
        sealing = _read(directory, "sealing_keys.json")
        content = _read(directory, "content_keys.json")
        return Keys(
            sealer=Sealer(_decoded(sealing), sealing["current"]),
            content=ContentKeys(_decoded(content), content["current"]),
            party=PartyKeys.from_jwks(json.dumps(_read(directory, "party_private.jwks.json"))),
            dead_letters=EnvelopeSealer(_read(directory, "dead_letter_public.jwk.json")),
        )
    except KeysUnusable:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, SealingError, OSError) as error:
        raise KeysUnusable(
            f"a key in {directory} is malformed ({type(error).__name__}); restore it from backup."
        ) from None


def load_dead_letter_opener(path: Path) -> EnvelopeOpener:
    """What opens dead letters: a private JWK, or a set of them while the key is renewed. Raises KeysUnusable."""
    if not path.is_file():
        raise KeysUnusable(f"{path} is missing: dead letters are opened where that key is, and nowhere else.")
    try:
        if path.stat().st_mode & stat.S_IRWXO:
            raise KeysUnusable(f"{path} is open to everybody: chmod o-rwx it.")
        loaded: dict[str, Any] = json.loads(path.read_text())
        return EnvelopeOpener(loaded.get("keys", [loaded]))
    except (ValueError, KeyError, TypeError, AttributeError, SealingError, OSError) as error:
        raise KeysUnusable(f"{path} cannot be used ({type(error).__name__}); restore it from backup.") from None


def _decoded(file: dict[str, Any]) -> dict[str, bytes]:
    return {name: base64.b64decode(text, validate=True) for name, text in file["keys"].items()}


def _read(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    if not path.is_file():
        raise KeysUnusable(f"{path} is missing; make a set with `payouts keys create {directory}` or restore it.")
    if name in SECRET_FILES and path.stat().st_mode & stat.S_IRWXO:
        raise KeysUnusable(f"{path} is open to everybody: chmod o-rwx it.")
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def _write(path: Path, content: dict[str, Any], *, secret: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=1)
