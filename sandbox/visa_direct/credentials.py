"""Certificates, keys and passwords of one stand-in, made when absent and never committed.

Visa's developer pages give the parties: a project has a client certificate and a Basic user for two-way TLS,
and one key id that names two RSA-2048 pairs for message level encryption, one in each direction. More of each can
be issued, and taken back, while the stand-in runs (``keyring.py``).
"""

import datetime
import ipaddress
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A sandbox directory is thrown away long before this; real Visa project certificates live about two years.
VALIDITY: Final = datetime.timedelta(days=730)
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
        make_mle_pairs(unfinished)
        _make_words(unfinished)
        _copy_for_client(unfinished)
        _take_place(unfinished, directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def issue_client_pair(credentials: SandboxCredentials, directory: Path, validity: datetime.timedelta) -> int:
    """A client certificate and key of the same authority, in files of ``directory``. Returns the serial number."""
    return _make_client_pair(directory, _read_issuer(credentials), validity).serial_number


def renew_server_pair(credentials: SandboxCredentials) -> None:
    """Another server certificate of the same authority in place of the one there is, in two renames."""
    with tempfile.TemporaryDirectory(dir=credentials.directory) as unfinished:
        _make_server_pair(Path(unfinished), _read_issuer(credentials))
        for name in ("server_key.pem", "server_certificate.pem"):
            (Path(unfinished) / name).replace(credentials.path(name))


def revocation_list(credentials: SandboxCredentials, serials: Sequence[int]) -> bytes:
    """The authority's list of client certificates that are no longer taken, in PEM."""
    now = datetime.datetime.now(datetime.UTC)
    issuer = _read_issuer(credentials)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - CLOCK_MARGIN)
        .next_update(now + VALIDITY)
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - CLOCK_MARGIN)
        builder = builder.add_revoked_certificate(revoked.build())
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _read_issuer(credentials: SandboxCredentials) -> _Issuer:
    key = serialization.load_pem_private_key(credentials.path("ca_key.pem").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return _Issuer(x509.load_pem_x509_certificate(credentials.path("ca.pem").read_bytes()), key)


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
    _make_server_pair(directory, issuer)
    _make_client_pair(directory, issuer, VALIDITY)


def _make_server_pair(directory: Path, issuer: _Issuer) -> None:
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    key = ec.generate_private_key(ec.SECP256R1())
    write_new(directory / "server_key.pem", _key_bytes(key))
    usage = ExtendedKeyUsageOID.SERVER_AUTH
    certificate = _issue("sandbox.visa_direct", key, issuer, usage, names, VALIDITY)
    write_new(directory / "server_certificate.pem", _certificate_bytes(certificate))


def _make_client_pair(directory: Path, issuer: _Issuer, validity: datetime.timedelta) -> x509.Certificate:
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    write_new(directory / "client_key.pem", _key_bytes(key))
    certificate = _issue("sandbox project client", key, issuer, ExtendedKeyUsageOID.CLIENT_AUTH, (), validity)
    write_new(directory / "client_certificate.pem", _certificate_bytes(certificate))
    return certificate


def _make_issuer(directory: Path) -> _Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("payout-streams sandbox CA")
    certificate = (
        _builder(name, name, key, VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_new(directory / "ca.pem", _certificate_bytes(certificate))
    write_new(directory / "ca_key.pem", _key_bytes(key))
    return _Issuer(certificate, key)


def _issue(
    name: str,
    key: PrivateKey,
    issuer: _Issuer,
    usage: x509.ObjectIdentifier,
    alternative_names: Sequence[x509.GeneralName],
    validity: datetime.timedelta,
) -> x509.Certificate:
    builder = (
        _builder(_name(name), issuer.certificate.subject, key, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    if alternative_names:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def make_mle_pairs(directory: Path) -> None:
    """The two pairs that one key id names, in files of ``directory``."""
    for party in ("server", "client"):
        key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        name = _name(f"sandbox MLE {party}")
        certificate = _builder(name, name, key, VALIDITY).sign(key, hashes.SHA256())
        write_new(directory / f"mle_{party}_certificate.pem", _certificate_bytes(certificate))
        write_new(directory / f"mle_{party}_private_key.pem", _key_bytes(key))


def _make_words(directory: Path) -> None:
    words = {
        "user_id": f"SANDBOX{secrets.token_hex(8).upper()}",
        "password": secrets.token_urlsafe(24),
        "mle_key_id": f"sandbox-{secrets.token_hex(8)}",
    }
    write_new(directory / "credentials.json", json.dumps(words, indent=2).encode() + b"\n")
    write_new(directory / "fingerprint.key", secrets.token_bytes(FINGERPRINT_KEY_BYTES))


def _copy_for_client(directory: Path) -> None:
    client = directory / "client"
    client.mkdir(mode=0o700)
    for name in CLIENT_FILES:
        write_new(client / name, (directory / name).read_bytes())


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


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, validity: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_MARGIN)
        .not_valid_after(now + validity)
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


def write_new(path: Path, content: bytes) -> None:
    """Create the file readable by its owner only, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
