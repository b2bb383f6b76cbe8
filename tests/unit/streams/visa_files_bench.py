"""Certificate and key files as an operator has them, and the settings that name them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from streams.settings import Profile, Settings
from tests.unit.visa.visa_testbed import MlePair, private_pem

Key = ec.EllipticCurvePrivateKey


def issue(
    name: str,
    key: Key,
    issuer: tuple[x509.Certificate, Key] | None = None,
    *,
    days: float = 365.0,
    begins: float = -1.0,
    now: datetime | None = None,
) -> x509.Certificate:
    """Valid from `begins` to `days` days from now; its own issuer without one."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    at = now or datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at + timedelta(days=begins))
        .not_valid_after(at + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(key if issuer is None else issuer[1], hashes.SHA256())
    )


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


@dataclass
class Files:
    """A directory with a client pair, an authority and message keys; each can be replaced."""

    directory: Path
    mle: dict[str, MlePair]
    """`server`, and ours by key id."""
    authority: tuple[x509.Certificate, Key] = field(init=False)

    def __post_init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.authority = (issue("authority", key), key)
        self.write("ca.pem", pem(self.authority[0]))
        self.new_client("client-1")
        self.write("server.pem", self.mle["server"].certificate_pem)
        for name, pair in self.mle.items():
            if name != "server":
                self.write(f"{name}.key", pair.private_pem)

    def path(self, name: str) -> Path:
        return self.directory / name

    def write(self, name: str, content: bytes, mode: int = 0o600) -> None:
        """As a careful operator does: complete before it has its name."""
        part = self.directory / f".{name}"
        part.write_bytes(content)
        part.chmod(mode)
        part.replace(self.path(name))

    def new_client(self, name: str, **validity: Any) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.write("client.pem", pem(issue(name, key, self.authority, **validity)))
        self.write("client.key", private_pem(key))

    def settings(self, **changes: Any) -> Settings:
        values: dict[str, Any] = {
            "payouts_profile": Profile.TEST,
            "visa_base_url": "https://127.0.0.1:1",
            "visa_cert_path": self.path("client.pem"),
            "visa_key_path": self.path("client.key"),
            "visa_ca_path": self.path("ca.pem"),
            "visa_user_id": "user-1",
            "visa_password": "secret",
            "visa_mle_key_id": "old",
            "visa_mle_private_key_path": self.path("old.key"),
            "visa_mle_server_certificate_path": self.path("server.pem"),
        }
        return Settings(_env_file=None, **{**values, **changes})
