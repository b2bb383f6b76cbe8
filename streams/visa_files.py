"""The certificate and key files for Visa: readable, valid, fitting each other, seen by nobody else. Shows no key.

One examination for `payouts doctor`, `payouts certs` and the worker that takes new files into use: what a person is
told before is what the worker decides by.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from streams.settings import Settings, readable_by_others

CHAIN_MAX = 10
"""Certificates from ours to a root; more in one chain is a loop."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNUSABLE = "unusable"
    """The files cannot be taken into use."""


@dataclass(frozen=True, slots=True)
class Examined:
    """One thing that was looked at: what, how it is, and what to do. `certificate` names one whose days are counted."""

    what: str
    level: Level
    detail: str
    advice: str = ""
    certificate: str | None = None
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    sha256: str | None = None


class Unusable(Exception):
    """A file cannot be used as what its setting says."""

    def __init__(self, what: str, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.examined = Examined(what, Level.UNUSABLE, detail, advice)


@dataclass(frozen=True, slots=True)
class ExpiryLimits:
    """How long before its end a certificate is worth a warning, and when it is critical."""

    warning: timedelta
    critical: timedelta

    @classmethod
    def of(cls, settings: Settings) -> "ExpiryLimits":
        """Those of the settings."""
        return cls(
            timedelta(days=settings.visa_certificate_warning_days),
            timedelta(days=settings.visa_certificate_critical_days),
        )


Stamp = tuple[tuple[str, int, int, int], ...]
"""Of each file its path, time of change, size and inode: different after every replacement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisaFiles:
    """Where certificate and keys are; None where nothing is set."""

    certificate: Path | None
    key: Path | None
    ca: Path | None
    mle_certificate: Path | None
    mle_key: Path | None
    mle_next_key: Path | None

    @classmethod
    def of(cls, settings: Settings) -> "VisaFiles":
        """Those of the settings."""
        return cls(
            certificate=settings.visa_cert_path,
            key=settings.visa_key_path,
            ca=settings.visa_ca_path,
            mle_certificate=settings.visa_mle_server_certificate_path,
            mle_key=settings.visa_mle_private_key_path,
            mle_next_key=settings.visa_mle_next_private_key_path,
        )

    @property
    def paths(self) -> list[Path]:
        """Those that are set."""
        every = (self.certificate, self.key, self.ca, self.mle_certificate, self.mle_key, self.mle_next_key)
        return [path for path in every if path is not None]


def stamp_of(paths: list[Path]) -> Stamp:
    """What tells whether any of the files was replaced since; one that is missing is part of it."""
    stamps = []
    for path in paths:
        try:
            found = path.stat()
            stamps.append((str(path), found.st_mtime_ns, found.st_size, found.st_ino))
        except OSError:
            stamps.append((str(path), -1, -1, -1))
    return tuple(stamps)


def examine(files: VisaFiles, limits: ExpiryLimits, now: datetime) -> Iterator[Examined]:
    """Everything that can be said of the files without Visa. What is not set is not mentioned."""
    if files.certificate is not None and files.key is not None:
        yield from _client_pair(files.certificate, files.key, files.ca, limits, now)
    if files.ca is not None:
        yield from _authorities(files.ca, limits, now)
    if files.mle_certificate is not None:
        yield from _encryption(files.mle_certificate, files.mle_key, limits, now)
    for what, path in (("message key", files.mle_key), ("next message key", files.mle_next_key)):
        if path is not None:
            yield from _private_key(what, path)


def unusable(examined: list[Examined]) -> list[str]:
    """Why these files cannot be taken into use; empty when they can."""
    return [found.detail for found in examined if found.level is Level.UNUSABLE]


def expiries(examined: list[Examined]) -> dict[str, datetime]:
    """Until when each certificate is valid: `client`, `ca`, `mle`."""
    return {
        found.certificate: found.valid_until
        for found in examined
        if found.certificate is not None and found.valid_until is not None
    }


def _client_pair(
    certificate_path: Path, key_path: Path, ca_path: Path | None, limits: ExpiryLimits, now: datetime
) -> Iterator[Examined]:
    yield from _private_key("client key", key_path)
    try:
        chain = read_certificates("client certificate", certificate_path)
        key = public_of_key("client key", key_path)
    except Unusable as error:
        yield error.examined
        return
    yield validity("client certificate", "client", chain[0], limits, now)
    if _same_key(key, chain[0].public_key()):
        yield Examined("client key", Level.OK, "it is the key of the client certificate")
    else:
        detail = f"{certificate_path} and {key_path} do not belong together"
        yield Examined("client key", Level.UNUSABLE, detail, "use the key with which this certificate was requested")
    yield _chain(chain, _authorities_or_none(ca_path), now)


def _chain(chain: list[x509.Certificate], authorities: list[x509.Certificate], now: datetime) -> Examined:
    """Every issuer that we have has signed, and is valid. Visa's own authority need not be among ours."""
    what, known, last = "client chain", [*chain[1:], *authorities], chain[0]
    for _ in range(CHAIN_MAX):
        if last.issuer == last.subject and last is not chain[0]:
            return Examined(what, Level.OK, f"leads to {_name(last.subject)}")
        issuers = [one for one in known if one.subject == last.issuer]
        if not issuers:
            if last.issuer == last.subject:
                return Examined(what, Level.OK, "the client certificate is its own issuer")
            return Examined(what, Level.OK, f"ends at {_name(last.issuer)}, which is not among our files")
        signed = [one for one in issuers if _has_issued(one, last)]
        if not signed:
            detail = f"{_name(last.issuer)} among our files has not issued {_name(last.subject)}"
            return Examined(what, Level.UNUSABLE, detail, "put the chain that came with this certificate into its file")
        last = signed[0]
        if not last.not_valid_before_utc <= now < last.not_valid_after_utc:
            detail = f"{_name(last.subject)} of the chain is not valid now"
            return Examined(what, Level.UNUSABLE, detail, "get the chain of the new authority")
    return Examined(what, Level.UNUSABLE, "the chain does not end", "put only the certificates of one chain there")


def _authorities(path: Path, limits: ExpiryLimits, now: datetime) -> Iterator[Examined]:
    """The longest valid one counts: a bundle holds the next authority beside the last."""
    try:
        authorities = read_certificates("authorities", path)
    except Unusable as error:
        yield error.examined
        return
    longest = max(authorities, key=lambda one: one.not_valid_after_utc)
    yield validity("authority of Visa's server", "ca", longest, limits, now)


def _authorities_or_none(path: Path | None) -> list[x509.Certificate]:
    try:
        return [] if path is None else read_certificates("authorities", path)
    except Unusable:
        return []  # said by `_authorities`


def _encryption(
    certificate_path: Path, key_path: Path | None, limits: ExpiryLimits, now: datetime
) -> Iterator[Examined]:
    what = "encryption certificate of Visa"
    try:
        certificate = read_certificates(what, certificate_path)[0]
        key = None if key_path is None else public_of_key("message key", key_path)
    except Unusable as error:
        yield error.examined
        return
    yield validity(what, "mle", certificate, limits, now)
    if key is not None and _same_key(key, certificate.public_key()):
        detail = f"{certificate_path} is the certificate of our own message key"
        yield Examined(what, Level.UNUSABLE, detail, "set it to the server certificate that Visa's project gave you")


def _private_key(what: str, path: Path) -> Iterator[Examined]:
    try:
        public_of_key(what, path)
    except Unusable as error:
        yield error.examined
        return
    if readable_by_others(path):
        detail = f"{path} can be read by others than its owner"
        yield Examined(what, Level.UNUSABLE, detail, "chmod 600 it, and ask who may have copied it")
    else:
        yield Examined(what, Level.OK, "can be read, by its owner only")


def read_certificates(what: str, path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one. Raises Unusable."""
    try:
        return x509.load_pem_x509_certificates(_read(what, path))
    except ValueError:
        raise Unusable(what, f"{path} holds no certificate in PEM", "download it again") from None


def public_of_key(what: str, path: Path) -> PublicKeyTypes:
    """The public half of an unencrypted private key in PEM. Raises Unusable."""
    try:
        return load_pem_private_key(_read(what, path), password=None).public_key()
    except (ValueError, TypeError):
        detail = f"{path} holds no unencrypted private key in PEM"
        raise Unusable(what, detail, "convert it, or use the right file") from None


def validity(what: str, name: str, certificate: x509.Certificate, limits: ExpiryLimits, now: datetime) -> Examined:
    """Whether a certificate is valid now, and for how long it will be."""
    until = certificate.not_valid_after_utc.astimezone(UTC)
    left = until - now
    level, detail, advice = Level.OK, f"valid until {until:%Y-%m-%d %H:%M}Z", ""
    if certificate.not_valid_before_utc > now:
        level, detail, advice = Level.UNUSABLE, "is not valid yet", "compare the clocks, or use another"
    elif left <= timedelta(0):
        level, detail, advice = Level.UNUSABLE, f"has expired on {until:%Y-%m-%d %H:%M}Z", "renew it at Visa now"
    elif left <= limits.critical:
        level, advice = Level.CRITICAL, "renew it at Visa now"
    elif left <= limits.warning:
        level, advice = Level.WARNING, "renew it at Visa"
    return Examined(
        what,
        level,
        detail,
        advice,
        certificate=name,
        valid_from=certificate.not_valid_before_utc,
        valid_until=until,
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Unusable(what, f"{path} cannot be read: {why}", "correct the path or its rights") from None


def _has_issued(issuer: x509.Certificate, subject: x509.Certificate) -> bool:
    try:
        subject.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _same_key(one: PublicKeyTypes, other: PublicKeyTypes) -> bool:
    return _encoded(one) == _encoded(other)


def _encoded(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _name(name: x509.Name) -> str:
    return name.rfc4514_string()[:200]
