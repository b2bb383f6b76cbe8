"""Certificates, keys and passwords of one stand-in, made when absent and never committed.

Visa's developer pages give the parties: a project has a client certificate and a Basic user for two-way TLS,
and one key id that names two RSA-2048 pairs for message level encryption, one in each direction.
"""

import datetime
import ipaddress
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A sandbox directory is thrown away long before this; real Visa project certificates live about two years.
VALIDITY_DAYS: Final = 730
CLOCK_MARGIN: Final = datetime.timedelta(hours=1)
RSA_BITS: Final = 2048  # Visa's encryption guide asks for RSA-2048.
FINGERPRINT_KEY_BYTES: Final = 32

CLIENT_FILES: Final = (
    "ca.pem",
    "client_certificate.pem",
    "client_key.pem",
    "mle_server_certificate.pem",
    "mle_client_private_key.pem",
    "credentials.json",
)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class CredentialsError(Exception):
    """The credentials directory cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class SandboxCredentials:
    """Where the files of one stand-in lie, and the three words a client needs beside them.

    ``client_directory`` holds copies of exactly what a client needs (``CLIENT_FILES``) and nothing of the
    server's. ``password`` and ``fingerprint_key`` do not show in ``repr``.
    """

    directory: Path
    user_id: str
    mle_key_id: str
    password: str = field(repr=False)
    fingerprint_key: bytes = field(repr=False)

    @property
    def client_directory(self) -> Path:
        return self.directory / "client"

    def path(self, name: str) -> Path:
        return self.directory / name


@dataclass(frozen=True, slots=True)
class _Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_credentials(directory: Path) -> SandboxCredentials:
    """Make the credentials in ``directory`` if it has none, else read the ones that are there.

    ``directory`` is ``<state directory>/credentials``. Safe to call from several processes at once: the files
    are made beside it and appear all together by one rename. Raises CredentialsError if what is there is
    incomplete or expired.
    """
    if not (directory / "credentials.json").exists():
        _make_all(directory)
    return _read(directory)


def _make_all(directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}-{os.getpid()}-{secrets.token_hex(4)}")
    unfinished.mkdir(mode=0o700)
    try:
        _make_tls(unfinished)
        _make_mle(unfinished)
        _make_words(unfinished)
        _copy_for_client(unfinished)
        _take_place(unfinished, directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _take_place(unfinished: Path, directory: Path) -> None:
    try:
        unfinished.rename(directory)
    except OSError as error:
        if (directory / "credentials.json").exists():
            return  # Another process was first; its credentials are as good as ours.
        raise CredentialsError(
            f"{directory} exists, is not empty and holds no credentials.json: it was not made by this "
            "program or was damaged. Remove it, or choose another --state-dir."
        ) from error


def _make_tls(directory: Path) -> None:
    issuer = _make_issuer(directory)
    server_names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    server_key = ec.generate_private_key(ec.SECP256R1())
    _write(directory / "server_key.pem", _key_bytes(server_key))
    server = _issue("sandbox.visa_direct", server_key, issuer, ExtendedKeyUsageOID.SERVER_AUTH, server_names)
    _write(directory / "server_certificate.pem", _certificate_bytes(server))
    client_key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    _write(directory / "client_key.pem", _key_bytes(client_key))
    client = _issue("sandbox project client", client_key, issuer, ExtendedKeyUsageOID.CLIENT_AUTH, ())
    _write(directory / "client_certificate.pem", _certificate_bytes(client))


def _make_issuer(directory: Path) -> _Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("payout-streams sandbox CA")
    certificate = (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(directory / "ca.pem", _certificate_bytes(certificate))
    _write(directory / "ca_key.pem", _key_bytes(key))
    return _Issuer(certificate, key)


def _issue(
    name: str,
    key: PrivateKey,
    issuer: _Issuer,
    usage: x509.ObjectIdentifier,
    alternative_names: Sequence[x509.GeneralName],
) -> x509.Certificate:
    builder = (
        _builder(_name(name), issuer.certificate.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    if alternative_names:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def _make_mle(directory: Path) -> None:
    for party in ("server", "client"):
        key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        name = _name(f"sandbox MLE {party}")
        certificate = _builder(name, name, key).sign(key, hashes.SHA256())
        _write(directory / f"mle_{party}_certificate.pem", _certificate_bytes(certificate))
        _write(directory / f"mle_{party}_private_key.pem", _key_bytes(key))


def _make_words(directory: Path) -> None:
    words = {
        "user_id": f"SANDBOX{secrets.token_hex(8).upper()}",
        "password": secrets.token_urlsafe(24),
        "mle_key_id": f"sandbox-{secrets.token_hex(8)}",
    }
    _write(directory / "credentials.json", json.dumps(words, indent=2).encode() + b"\n")
    _write(directory / "fingerprint.key", secrets.token_bytes(FINGERPRINT_KEY_BYTES))


def _copy_for_client(directory: Path) -> None:
    client = directory / "client"
    client.mkdir(mode=0o700)
    for name in CLIENT_FILES:
        _write(client / name, (directory / name).read_bytes())


def _read(directory: Path) -> SandboxCredentials:
    try:
        words = json.loads((directory / "credentials.json").read_bytes())
        certificate = x509.load_pem_x509_certificate((directory / "server_certificate.pem").read_bytes())
        credentials = SandboxCredentials(
            directory=directory,
            user_id=str(words["user_id"]),
            password=str(words["password"]),
            mle_key_id=str(words["mle_key_id"]),
            fingerprint_key=(directory / "fingerprint.key").read_bytes(),
        )
    except (OSError, ValueError, KeyError) as error:
        raise CredentialsError(
            f"The credentials in {directory} are incomplete ({type(error).__name__}). Remove that directory; "
            "new ones are made at the next start."
        ) from error
    if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise CredentialsError(
            f"The certificates in {directory} expired on {certificate.not_valid_after_utc:%Y-%m-%d}. Remove "
            "that directory; new ones are made at the next start."
        )
    return credentials


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_MARGIN)
        .not_valid_after(now + datetime.timedelta(days=VALIDITY_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not signs_certificates,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate_bytes(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_bytes(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    """Create the file readable by its owner only, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
