"""Looks at the certificate and key files for Visa: readable, valid, fitting each other. Nothing is shown of a key."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from ops.findings import Finding, Status

CHECK: Final = "certificates"
# Visa's certificates take days to be issued anew, and then have to be rolled out.
WARNING: Final = timedelta(days=21)
ALARM: Final = timedelta(days=3)


class FileUnusable(Exception):
    """A file cannot be used as what its setting says."""

    def __init__(self, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.finding = Finding(CHECK, Status.FAIL, detail, advice)


def client_pair(
    certificate_setting: str, certificate_path: Path, key_setting: str, key_path: Path, now: datetime
) -> Iterator[Finding]:
    """The client certificate is valid, and the key is its key."""
    try:
        certificate = read_certificate(certificate_setting, certificate_path)
        yield validity("client certificate", certificate, now)
        key = public_of_key(key_setting, key_path)
    except FileUnusable as unusable:
        yield unusable.finding
        return
    if same_key(key, certificate.public_key()):
        yield Finding(CHECK, Status.OK, "the key of the client certificate fits")
    else:
        yield Finding(
            CHECK,
            Status.FAIL,
            f"{certificate_setting} and {key_setting} do not belong together",
            "use the key with which this certificate was requested",
        )


def encryption_pair(
    certificate_setting: str, certificate_path: Path, key_setting: str, key_path: Path, now: datetime
) -> Iterator[Finding]:
    """Visa's encryption certificate is valid, and our decryption key is another key than its."""
    try:
        certificate = read_certificate(certificate_setting, certificate_path)
        yield validity("encryption certificate of Visa", certificate, now)
        key = public_of_key(key_setting, key_path)
    except FileUnusable as unusable:
        yield unusable.finding
        return
    if same_key(key, certificate.public_key()):
        yield Finding(
            CHECK,
            Status.FAIL,
            f"{certificate_setting} is the certificate of our own decryption key",
            "set it to the server certificate that Visa's project gave you",
        )
    else:
        yield Finding(CHECK, Status.OK, "our decryption key can be read")


def read_certificate(setting: str, path: Path) -> x509.Certificate:
    """A certificate in PEM. Raises FileUnusable."""
    try:
        return x509.load_pem_x509_certificate(_read(setting, path))
    except ValueError:
        raise FileUnusable(f"{setting}: {path} is no certificate in PEM", "download it again") from None


def public_of_key(setting: str, path: Path) -> PublicKeyTypes:
    """The public half of an unencrypted private key in PEM. Raises FileUnusable."""
    try:
        return load_pem_private_key(_read(setting, path), password=None).public_key()
    except (ValueError, TypeError):
        raise FileUnusable(
            f"{setting}: {path} is no unencrypted private key in PEM", "convert it, or use the right file"
        ) from None


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise FileUnusable(f"{setting}: {path} cannot be read: {why}", "correct the path or its rights") from None


def same_key(one: PublicKeyTypes, other: PublicKeyTypes) -> bool:
    """Whether two public keys are one."""
    return _encoded(one) == _encoded(other)


def _encoded(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def validity(what: str, certificate: x509.Certificate, now: datetime) -> Finding:
    """Whether a certificate is valid now, and for how long it will be."""
    left = certificate.not_valid_after_utc - now
    until = f"the {what} is valid until {certificate.not_valid_after_utc.astimezone(UTC):%Y-%m-%d %H:%M}Z"
    if certificate.not_valid_before_utc > now:
        return Finding(CHECK, Status.FAIL, f"the {what} is not valid yet", "compare the clocks, or use another")
    if left <= timedelta(0):
        return Finding(CHECK, Status.FAIL, f"the {what} has expired", "renew it at Visa now")
    if left <= ALARM:
        return Finding(CHECK, Status.FAIL, until, "renew it at Visa now")
    if left <= WARNING:
        return Finding(CHECK, Status.WARN, until, "renew it at Visa")
    return Finding(CHECK, Status.OK, until)
