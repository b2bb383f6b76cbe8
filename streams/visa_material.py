"""From settings and files to a connection to Visa, and what may be said about it."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from processors.secrets import Secret
from processors.visa.mle import DecryptionKey, MessageEncryption, MleError
from processors.visa.transport import VisaConnection
from streams.settings import Settings, SettingsInvalid
from streams.visa_files import Examined, ExpiryLimits, Stamp, VisaFiles, examine, expiries, stamp_of, unusable


class MaterialUnusable(Exception):
    """The files or settings cannot be taken into use; the message says why and holds no key."""


@dataclass(frozen=True, slots=True)
class Material:
    """A connection ready to be opened, and the facts about it that may be shown."""

    connection: VisaConnection
    encryption: MessageEncryption
    stamp: Stamp
    examined: tuple[Examined, ...]
    digest: str = field(repr=False)
    """The same for the same files and settings; of secrets too, so it is compared and never shown."""

    @property
    def expiries(self) -> dict[str, datetime]:
        """Until when each certificate is valid; that of a key from the JWKS is part of it once there is one."""
        found = expiries(list(self.examined))
        server_key = self.encryption.server_key
        if server_key is not None and server_key.valid_until is not None:
            found["mle"] = server_key.valid_until
        return found

    @property
    def facts(self) -> dict[str, Any]:
        """What `payouts certs status` shows of a worker. JSON-able; no key, no password."""
        certificate = next((found for found in self.examined if found.certificate == "client"), None)
        return {
            "certificate_sha256": None if certificate is None else certificate.sha256,
            "valid_until": {name: until.isoformat() for name, until in sorted(self.expiries.items())},
            "mle_key_id": self.encryption.key_id,
            "decrypts_with": list(self.encryption.decrypts_with),
        }


def watched_paths(settings: Settings, settings_file: str | None) -> list[Path]:
    """The files whose replacement means that there is something new, the settings' own included."""
    return [*VisaFiles.of(settings).paths, *([Path(settings_file)] if settings_file else [])]


def load_material(settings: Settings, now: datetime, *, retired: MessageEncryption | None = None) -> Material:
    """Read and check everything anew. Raises MaterialUnusable, naming every problem.

    `retired` is the encryption in use until now: answers to its keys are still opened.
    """
    files = VisaFiles.of(settings)
    stamp = stamp_of(files.paths)
    problems = settings.problems(needs_visa=True)
    examined = tuple(examine(files, ExpiryLimits.of(settings), now))
    problems += unusable(list(examined))
    if problems:
        raise MaterialUnusable("; ".join(problems))
    try:
        encryption = visa_encryption(settings, retired)
        connection = visa_connection(settings, encryption)
    except (SettingsInvalid, MleError, ValueError) as error:
        raise MaterialUnusable(str(error)) from None
    return Material(connection, encryption, stamp, examined, _digest(settings, files))


def material_in_use(settings: Settings, now: datetime) -> Material:
    """What a worker starts with: as far as a connection can be made of it, it is used. Raises SettingsInvalid."""
    files = VisaFiles.of(settings)
    stamp = stamp_of(files.paths)
    try:
        encryption = visa_encryption(settings)
    except MleError as error:
        raise SettingsInvalid(f"The message encryption keys cannot be used: {error}") from None
    examined = tuple(examine(files, ExpiryLimits.of(settings), now))
    return Material(visa_connection(settings, encryption), encryption, stamp, examined, _digest(settings, files))


def visa_connection(settings: Settings, encryption: MessageEncryption) -> VisaConnection:
    """The mTLS, Basic and MLE material. Raises SettingsInvalid when a file cannot be read."""
    total = settings.http_total_seconds
    return VisaConnection(
        base_url=settings.visa_base_url,
        user_id=settings.visa_user_id or "",
        password=Secret(settings.visa_password.get_secret_value() if settings.visa_password else ""),
        client_certificate_path=_needed(settings.visa_cert_path, "VISA_CERT_PATH"),
        client_key_path=_needed(settings.visa_key_path, "VISA_KEY_PATH"),
        ca_path=settings.visa_ca_path,
        encryption=encryption,
        connect_timeout_seconds=min(5.0, total / 2),
        read_timeout_seconds=total - 0.2,
        write_timeout_seconds=min(5.0, total / 2),
        pool_timeout_seconds=min(5.0, total / 2),
        total_timeout_seconds=total,
        transaction_timeout_ms=min(30_000, int((total - 0.5) * 1000)),
        max_connections=settings.visa_calls_max,
        correlation_header=settings.request_id_header,
    )


def _digest(settings: Settings, files: VisaFiles) -> str:
    values = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name in sorted(Settings.model_fields)
        if name.startswith("visa_") and (value := getattr(settings, name)) is not None
    }
    digest = hashlib.sha256(json.dumps(values).encode())
    for path in files.paths:
        if path.is_file():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def probing(connection: VisaConnection) -> VisaConnection:
    """The same for a few calls of a person who waits."""
    return replace(connection, max_connections=2)


def visa_encryption(settings: Settings, retired: MessageEncryption | None = None) -> MessageEncryption:
    """Our keys and Visa's, if that one comes from a file. Raises SettingsInvalid for a path, MleError for content."""
    from_url = settings.visa_jwks_url is not None
    keys = [_key(settings.visa_mle_key_id, settings.visa_mle_private_key_path, "VISA_MLE_PRIVATE_KEY_PATH")]
    if settings.visa_mle_next_key_id is not None:
        path = settings.visa_mle_next_private_key_path
        keys.append(_key(settings.visa_mle_next_key_id, path, "VISA_MLE_NEXT_PRIVATE_KEY_PATH"))
    certificate = settings.visa_mle_server_certificate_path
    return MessageEncryption(
        key_id=settings.visa_mle_key_id or "",
        server_certificate_pem=None if from_url else _read(certificate, "VISA_MLE_SERVER_CERTIFICATE_PATH"),
        decryption_keys=keys,
        content_encryption=settings.visa_mle_content_encryption,
        retired=retired,
    )


def _key(key_id: str | None, path: Path | None, name: str) -> DecryptionKey:
    try:
        return DecryptionKey(key_id or "", Secret(_read(path, name).decode("ascii")))
    except UnicodeDecodeError:
        raise SettingsInvalid(f"{name} names a file that is no key in PEM: use the right one.") from None


def _needed(path: Path | None, name: str) -> Path:
    if path is None or not path.is_file():
        raise SettingsInvalid(f"{name} names no readable file: set it to the file that Visa's project gave you.")
    return path


def _read(path: Path | None, name: str) -> bytes:
    return _needed(path, name).read_bytes()
