"""Every setting of the worker and the commands: typed, from the environment or a file, checked at start.

    payouts worker                         reads the environment
    PAYOUTS_SETTINGS_FILE=payouts.env …    reads a file of NAME=value lines first; the environment wins

The `production` profile (the default) refuses what would put money or data at risk: plaintext Kafka or PostgreSQL,
missing keys, a database that acknowledges commits before they are durable. The `test` profile shortens times and
allows plaintext on loopback.
"""

import importlib.util
import os
import re
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from processors.payout.schedule import Schedule
from processors.visa.correlation import DEFAULT_PREFIX, PREFIX_PATTERN, RequestIdFormat, RequestIds

AGENT_NAMES = ("validate", "comply", "submit", "retry", "compensate", "review")
CONSUMER_GROUP = "payouts"
"""One group for any subset of agents, so that offsets, lag and resets have one address."""
STANDSTILL_CALLS = 8
"""Longest calls that a partition may stand still for. The worst of a healthy day is three agents' full slots before
the permits of one worker, 64 at a time, and a question after each call: six."""
STANDSTILL_SECONDS_MIN = 30.0
"""With the test profile's short calls: a starved machine is no standstill."""
CALLS_OF_A_FULL_AGENT = 6
"""The same three agents and their questions, for each slot of PAYOUTS_IN_FLIGHT_MAX."""


LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
PRIVATE_KEY_SETTINGS = ("visa_key_path", "visa_mle_private_key_path", "visa_mle_next_private_key_path")
"""Files that only the worker's user may read."""


class Profile(StrEnum):
    """Which times and which refusals apply."""

    PRODUCTION = "production"
    TEST = "test"


class SettingsInvalid(Exception):
    """The settings cannot be used; the message lists every problem with its variable and what to do."""


class Settings(BaseSettings):
    """Environment variables in upper case; `payouts doctor` prints them with secrets hidden."""

    model_config = SettingsConfigDict(extra="ignore", case_sensitive=False, frozen=True, hide_input_in_errors=True)

    payouts_profile: Profile = Profile.PRODUCTION
    payouts_topic_prefix: str = Field("", pattern=r"^[a-zA-Z0-9._-]{0,40}$")
    """Put before every topic name and the consumer group, so that a demo on a shared cluster has names of its own."""
    payouts_keys_directory: Path = Path("keys")
    """Where `payouts keys create` put our keys."""
    payouts_policies_directory: Path | None = None
    """Corridor policy and watch list; the shipped ones when not set."""
    payouts_log_format: Literal["json", "console"] = "json"
    payouts_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    payouts_http_host: str = "127.0.0.1"
    payouts_http_port: int = Field(6066, ge=0, le=65535)
    """Health and metrics; 0 chooses a free port."""
    payouts_http_port_file: Path | None = None
    """Where the worker writes the port it really listens on."""
    payouts_metrics_originators: str = Field("", max_length=2000)
    """Comma-separated: originators that metrics always name, 20 at most; without it those who come first."""
    payouts_worker_name: str | None = None
    payouts_tracing: Literal["off", "otlp"] = "off"
    """Spans to an OpenTelemetry collector over HTTP: needs the extra `tracing`. Off: nothing of it is imported."""
    payouts_tracing_endpoint: str | None = None
    """The collector's address for traces, whole: https://host:4318/v1/traces."""
    payouts_tracing_headers: SecretStr | None = None
    """`name=value` pairs, separated by commas, for a collector that asks for a token."""
    payouts_tracing_ca_path: Path | None = None
    """The collector's authority; the system's when not set."""
    payouts_tracing_ratio: float = Field(1.0, ge=0, le=1)
    """The share of payouts whose trace is recorded, the same ones in every worker."""
    payouts_tracing_queue_max: int = Field(4096, ge=64, le=100_000)
    """Spans that may wait for the collector, about 2 KB each; beyond it they are dropped, and counted."""
    payouts_in_flight_max: int = Field(64, ge=1, le=2000)
    """Events in work at once per agent: bounds memory and the repeats after a kill."""
    payouts_review_threshold_basis_points: int = Field(7000, ge=0, le=10000)
    payouts_deny_threshold_basis_points: int = Field(8500, ge=0, le=10000)
    payouts_lease_seconds: float | None = Field(None, gt=0, le=600)
    payouts_commit_timeout_seconds: float | None = Field(None, gt=0, le=120)

    retry_base_delay_seconds: float | None = Field(None, gt=0, le=60)
    """After a refusal that is nobody's fault in particular (429, no connection): first wait, then doubled."""
    retry_max_delay_seconds: float | None = Field(None, gt=0, le=3600)
    retry_backoff_multiplier: float | None = Field(None, ge=1, le=10)
    retry_budget: int | None = Field(None, ge=1, le=100)
    """Failures of a payout's own before a person looks at it (rule S7)."""
    retry_budget_base_delay_seconds: float | None = Field(None, gt=0, le=3600)
    retry_budget_max_delay_seconds: float | None = Field(None, gt=0, le=3600)

    kafka_bootstrap_servers: Annotated[str, NoDecode] = "127.0.0.1:9092"
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_SSL"] = "PLAINTEXT"
    kafka_ssl_ca_path: Path | None = None
    kafka_ssl_certificate_path: Path | None = None
    kafka_ssl_key_path: Path | None = None
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    schema_registry_url: str | None = None
    """Empty or unset: schema ids come from the repository's pinned table."""

    database_url: SecretStr = SecretStr("postgresql://payouts@127.0.0.1:5432/payouts")
    database_pool_max: int = Field(16, ge=2, le=200)
    audit_retention_days: int = Field(2555, ge=2555, le=3653)
    """How long exports of the audit are to be kept: seven to ten years. Ledger and topic keep it for ever."""

    visa_base_url: str = "https://sandbox.api.visa.com"
    visa_cert_path: Path | None = None
    visa_key_path: Path | None = None
    visa_ca_path: Path | None = None
    visa_user_id: str | None = None
    visa_password: SecretStr | None = None
    visa_mle_key_id: str | None = None
    visa_mle_server_certificate_path: Path | None = None
    visa_mle_private_key_path: Path | None = None
    visa_mle_next_key_id: str | None = None
    """While a key pair is renewed: the pair that Visa may answer to next, or last, beside the one in use."""
    visa_mle_next_private_key_path: Path | None = None
    visa_mle_content_encryption: Literal["A128GCM", "A256GCM"] = "A128GCM"
    """What we encrypt with; answers may use either."""
    visa_jwks_url: str | None = None
    """Where Visa's encryption key is published, in place of a server certificate's file."""
    jwks_cache_ttl_seconds: float = Field(600, ge=1, le=86400)
    jwks_breaker_max_failures: int = Field(3, ge=1, le=100)
    jwks_breaker_timeout_seconds: float = Field(10, gt=0, le=60)
    """The longest that one fetch may take."""
    jwks_breaker_reset_seconds: float = Field(60, ge=1, le=3600)
    """From the breaker's opening to the one fetch that may try again."""
    visa_certificate_warning_days: int = Field(60, ge=1, le=366)
    visa_certificate_critical_days: int = Field(30, ge=1, le=366)
    visa_acquiring_bin: str = Field("408999", pattern=r"^[0-9]{6,11}$")
    visa_acquirer_country_code: str = Field("840", pattern=r"^[0-9]{3}$")
    visa_business_application_id: str = Field("FD", pattern=r"^[A-Z]{2}$")
    visa_card_acceptor_name: str = Field("Payout Streams", max_length=25)
    visa_legal_business_name: str | None = Field(None, min_length=1, max_length=25)
    """Money transfers must carry it, and cards of Canada and Australia that are paid from abroad."""
    visa_card_acceptor_id: str = Field("PAYOUTSTREAMS01", max_length=15)
    visa_terminal_id: str = Field("PSTRM001", max_length=8)
    visa_card_acceptor_country: str = Field("USA", min_length=2, max_length=3)
    visa_card_acceptor_city: str = Field("Foster City", max_length=13)
    visa_card_acceptor_state: str | None = "CA"
    visa_card_acceptor_county: str | None = "081"
    visa_card_acceptor_zip_code: str | None = "94404"
    visa_merchant_category_code: str | None = Field("6012", pattern=r"^[0-9]{4}$")
    visa_initiating_party_id: int | None = Field(None, gt=0, lt=2**63)
    """Our party at Visa's account and wallet rail. Unset: payouts to accounts and wallets are refused."""
    request_id_header: str = "x-request-id"
    request_id_format: RequestIdFormat = RequestIdFormat.UUID
    """What a payout's calls to Visa, and the header `request_id` of its events, are known by."""
    request_id_prefix: str = Field(DEFAULT_PREFIX, pattern=PREFIX_PATTERN)
    visa_calls_max: int = Field(64, ge=1, le=1000)
    """Calls in flight at once from this worker, at most: after a 429 there are fewer for a while."""
    visa_rate_limit_per_second: float | None = Field(None, gt=0, le=100_000)
    """Calls a second from this worker, whatever their kind; the enrolment's rate divided by the number of workers."""
    visa_originator_rate_limit_per_second: float | None = Field(None, gt=0, le=100_000)
    """The same for the payouts of one originator."""
    visa_pause_after_failures: int = Field(8, ge=1, le=1000)
    """Calls of one kind that nobody answered, in a row, before that kind pauses: more than chance makes of a call lost
    now and then, fewer than an outage should reach."""
    visa_probe_max_seconds: float = Field(30.0, ge=1, le=600)
    """The longest time between two tries while paused: an outage that is over should not last longer for us."""

    @model_validator(mode="after")
    def _retry_times_agree(self) -> Self:
        try:
            _ = self.schedule
        except ValueError as error:
            raise ValueError(f"the RETRY_ variables contradict each other: {error}") from None
        return self

    @property
    def production(self) -> bool:
        """The profile that refuses risks."""
        return self.payouts_profile is Profile.PRODUCTION

    @property
    def metrics_originators(self) -> tuple[str, ...]:
        """Those that metrics always name."""
        return tuple(name for part in self.payouts_metrics_originators.split(",") if (name := part.strip()))

    @property
    def schedule(self) -> Schedule:
        """The profile's times, with what is set."""
        schedule = Schedule.production() if self.production else Schedule.test()
        wanted: dict[str, Any] = {
            "lease_seconds": self.payouts_lease_seconds,
            "retry_base_seconds": self.retry_base_delay_seconds,
            "retry_max_seconds": self.retry_max_delay_seconds,
            "retry_multiplier": self.retry_backoff_multiplier,
            "retry_budget": self.retry_budget,
            "own_retry_base_seconds": self.retry_budget_base_delay_seconds,
            "own_retry_max_seconds": self.retry_budget_max_delay_seconds,
        }
        return replace(schedule, **{name: value for name, value in wanted.items() if value is not None})

    @property
    def request_ids(self) -> RequestIds:
        """The id of a payout's calls to Visa."""
        return RequestIds(self.request_id_format, self.request_id_prefix)

    @property
    def http_total_seconds(self) -> float:
        """The longest that one HTTP call may take: Visa answers within 30 s."""
        return 35.0 if self.production else 3.0

    @property
    def standstill_seconds(self) -> float:
        """How long a partition may stand still while work waits, before the watchdog ends the worker."""
        return max(STANDSTILL_SECONDS_MIN, STANDSTILL_CALLS * self.http_total_seconds)

    @property
    def session_timeout_seconds(self) -> float:
        """Kafka session: how long a dead worker keeps its partitions."""
        return 45.0 if self.production else 6.0

    @property
    def rebalance_timeout_seconds(self) -> float:
        """How long a worker may take to join a rebalance."""
        return 120.0 if self.production else 20.0

    @property
    def unconfirmed_seconds(self) -> float:
        """K5: a commit or publish in flight for longer is not waited for."""
        if self.payouts_commit_timeout_seconds is not None:
            return self.payouts_commit_timeout_seconds
        return 20.0 if self.production else 5.0

    @property
    def group(self) -> str:
        """The consumer group, with the prefix if there is one."""
        return f"{self.payouts_topic_prefix}{CONSUMER_GROUP}"

    def problems(self, *, needs_visa: bool = False) -> list[str]:
        """Everything that forbids a start, each with what to do; empty when all is well."""
        found = list(self._time_problems())
        if self.payouts_review_threshold_basis_points == 0:
            found.append("PAYOUTS_REVIEW_THRESHOLD_BASIS_POINTS is 0: every payout would be a match; raise it.")
        if self.payouts_deny_threshold_basis_points < self.payouts_review_threshold_basis_points:
            found.append("PAYOUTS_DENY_THRESHOLD_BASIS_POINTS is below the review threshold: raise it.")
        found += self._rate_problems()
        found += self._tracing_problems()
        if self.production:
            found += self._production_problems()
        if needs_visa:
            found += [f"{name.upper()} is not set: the submit agents need it." for name in self._missing_visa()]
            found += self._key_problems()
        return found

    def _time_problems(self) -> list[str]:
        schedule = self.schedule
        if self.http_total_seconds + schedule.clock_skew_seconds >= schedule.lease_seconds:
            return ["PAYOUTS_LEASE_SECONDS must be longer than the longest call plus clock skew (L3): raise it."]
        if self.unconfirmed_seconds >= schedule.lease_seconds:
            return ["PAYOUTS_COMMIT_TIMEOUT_SECONDS must be shorter than the lease (L3): lower it."]
        return []

    def _rate_problems(self) -> list[str]:
        """A full house must get through its own rate before the watchdog takes the wait for a standstill."""
        calls = CALLS_OF_A_FULL_AGENT * self.payouts_in_flight_max
        return [
            f"{name.upper()} is so low that {calls} calls of PAYOUTS_IN_FLIGHT_MAX would take longer than "
            f"{self.standstill_seconds:g} s, after which a worker counts as wedged: raise it above "
            f"{calls / self.standstill_seconds:.1f}, or lower PAYOUTS_IN_FLIGHT_MAX."
            for name in ("visa_rate_limit_per_second", "visa_originator_rate_limit_per_second")
            if (rate := getattr(self, name)) is not None and calls / rate > self.standstill_seconds
        ]

    def _tracing_problems(self) -> list[str]:
        """Whoever turns tracing on should hear at once, and not by an empty page, that nothing can come of it."""
        if self.payouts_tracing == "off":
            return []
        found = []
        if not _is_installed("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"):
            found.append(
                "PAYOUTS_TRACING is otlp and OpenTelemetry is not installed: install the extra `tracing` "
                "(requirements/tracing.txt), or set it to off."
            )
        parts = _address(self.payouts_tracing_endpoint)
        if parts is None or parts.scheme not in ("http", "https") or parts.username or parts.path in ("", "/"):
            found.append(
                "PAYOUTS_TRACING_ENDPOINT must be the whole address for traces, without credentials: "
                "https://host:4318/v1/traces."
            )
        elif self.production and parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
            found.append("PAYOUTS_TRACING_ENDPOINT must be https, or on this machine: traces name payouts.")
        if self.tracing_headers is None:
            found.append("PAYOUTS_TRACING_HEADERS must be name=value pairs, separated by commas.")
        if self.payouts_tracing_ca_path is not None and not self.payouts_tracing_ca_path.is_file():
            found.append(f"PAYOUTS_TRACING_CA_PATH {self.payouts_tracing_ca_path} is missing: correct or unset it.")
        return found

    @property
    def tracing_headers(self) -> dict[str, str] | None:
        """What the collector is sent with each batch; None when the setting is no list of pairs. Holds secrets."""
        given = self.payouts_tracing_headers
        if given is None:
            return {}
        pairs = [pair.partition("=") for pair in given.get_secret_value().split(",") if pair.strip()]
        read = {name.strip(): value.strip() for name, _, value in pairs}
        usable = all(_HEADER_NAME.fullmatch(name) and value.isprintable() and value for name, value in read.items())
        return read if usable else None

    def _production_problems(self) -> list[str]:
        found = []
        if self.kafka_security_protocol == "PLAINTEXT":
            found.append("KAFKA_SECURITY_PROTOCOL is PLAINTEXT: production needs SSL or SASL_SSL.")
        if self.kafka_security_protocol == "SASL_SSL" and not (self.kafka_sasl_username and self.kafka_sasl_password):
            found.append("KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD are needed for SASL_SSL: set both.")
        if _sslmode(self.database_url) not in ("require", "verify-ca", "verify-full"):
            found.append(
                "DATABASE_URL has no sslmode=require (or verify-full): production refuses plaintext PostgreSQL."
            )
        if not self.payouts_keys_directory.is_dir():
            found.append(
                f"PAYOUTS_KEYS_DIRECTORY {self.payouts_keys_directory} is missing: `payouts keys create DIR` makes one."
            )
        if not self.visa_base_url.startswith("https://"):
            found.append("VISA_BASE_URL must be https.")
        return found

    def _missing_visa(self) -> list[str]:
        names = [
            "visa_cert_path", "visa_key_path", "visa_user_id", "visa_password", "visa_mle_key_id",
            "visa_mle_private_key_path",
        ]  # fmt: skip
        if self.visa_jwks_url is None:
            names.append("visa_mle_server_certificate_path")
        return [name for name in names if getattr(self, name) is None]

    def _key_problems(self) -> list[str]:
        found = []
        if (self.visa_mle_next_key_id is None) != (self.visa_mle_next_private_key_path is None):
            found.append("VISA_MLE_NEXT_KEY_ID and VISA_MLE_NEXT_PRIVATE_KEY_PATH belong together: set both or none.")
        if self.visa_jwks_url is not None and self.visa_mle_server_certificate_path is not None:
            found.append("VISA_JWKS_URL and VISA_MLE_SERVER_CERTIFICATE_PATH both name Visa's key: set only one.")
        if self.visa_jwks_url is not None and not self.visa_jwks_url.startswith("https://"):
            found.append("VISA_JWKS_URL must be https: whoever answers there chooses who can read what we send.")
        if self.visa_certificate_critical_days > self.visa_certificate_warning_days:
            found.append("VISA_CERTIFICATE_CRITICAL_DAYS is above VISA_CERTIFICATE_WARNING_DAYS: lower it.")
        if self.production:
            found += [
                f"{name.upper()}: {path} can be read by others than its owner: chmod 600 it."
                for name in PRIVATE_KEY_SETTINGS
                if (path := getattr(self, name)) is not None and readable_by_others(path)
            ]
        return found


def readable_by_others(path: Path) -> bool:
    """Whether others than we have a right to a file. One that cannot be looked at is somebody else's finding."""
    try:
        status = path.stat()
    except OSError:
        return False
    return open_to_others(status.st_mode, status.st_uid, os.geteuid())


def open_to_others(mode: int, owner: int, user: int) -> bool:
    """Group or world have any right; but the group of a file of root's may read it, as PostgreSQL's clients allow too:

    Kubernetes hands a Secret to a user that is not root in this way and in no other.
    """
    return bool(mode & (0o037 if owner == 0 and user != 0 else 0o077))


def _is_installed(*modules: str) -> bool:
    """Whether they could be imported; imports none of them but the packages that they are in."""
    try:
        return all(importlib.util.find_spec(module) is not None for module in modules)
    except ModuleNotFoundError:
        return False


def _address(text: str | None) -> SplitResult | None:
    """The parts of an address that names a host; None for what is none."""
    try:
        parts = urlsplit(text or "")
        _ = parts.port  # which is read only now, and may be no number
    except ValueError:
        return None
    return parts if parts.hostname else None


def _sslmode(database_url: SecretStr) -> str:
    """The address's sslmode. The library's own errors quote the part that holds the password, so none leaves."""
    try:
        return parse_qs(urlsplit(database_url.get_secret_value()).query).get("sslmode", [""])[0]
    except ValueError:
        return ""


def settings_file() -> str | None:
    """The file that settings are read from, if there is one."""
    return os.environ.get("PAYOUTS_SETTINGS_FILE") or None


def load_settings() -> Settings:
    """Read file and environment. Raises SettingsInvalid with one line a problem, never with a value."""
    file = settings_file()
    if file and not Path(file).is_file():
        raise SettingsInvalid(f"PAYOUTS_SETTINGS_FILE names {file}, which does not exist: correct or unset it.")
    try:
        return Settings(_env_file=file)  # type: ignore[call-arg]
    except ValidationError as error:
        lines = [f"{str(e['loc'][0]).upper() if e['loc'] else 'settings'}: {e['msg']}" for e in error.errors()]
        raise SettingsInvalid("Settings are not usable:\n  " + "\n  ".join(lines)) from None
