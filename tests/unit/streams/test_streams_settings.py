"""Production refuses what would put money or data at risk; errors name the variable and never a value."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from processors.compliance.decide import Thresholds
from streams.settings import Profile, Settings, SettingsInvalid, load_settings, open_to_others

SECRET = "geheim-7Qx"
SAFE = {
    "PAYOUTS_PROFILE": "production",
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_USERNAME": "payouts",
    "KAFKA_SASL_PASSWORD": SECRET,
    "DATABASE_URL": f"postgresql://payouts:{SECRET}@db.example/payouts?sslmode=verify-full",
    "VISA_BASE_URL": "https://api.visa.example",
    "VISA_PASSWORD": SECRET,
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own environment."""
    for name in [*Settings.model_fields, "payouts_settings_file"]:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Loader":
    return Loader(monkeypatch, tmp_path)


class Loader:
    """Loads settings from an environment that is safe but for the changes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self._monkeypatch = monkeypatch
        self._directory = directory

    def __call__(self, **changes: str) -> Settings:
        for name, value in (SAFE | {"PAYOUTS_KEYS_DIRECTORY": str(self._directory)} | changes).items():
            self._monkeypatch.setenv(name, value)
        return load_settings()


def test_production_is_the_default_profile() -> None:
    """Fail closed: who forgets the profile gets the strict one."""
    assert Settings().production


def test_a_safe_production_worker_may_start(loaded: "Loader") -> None:
    """The refusals below are about what they name."""
    assert loaded().problems() == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, "KAFKA_SECURITY_PROTOCOL"),
        ({"DATABASE_URL": f"postgresql://payouts:{SECRET}@db/payouts"}, "DATABASE_URL"),
        ({"DATABASE_URL": f"postgresql://payouts:{SECRET}@db/payouts?sslmode=prefer"}, "DATABASE_URL"),
        ({"DATABASE_URL": f"postgresql://payouts:{SECRET}@db/payouts?sslmode=disable&sslmode=require"}, "DATABASE_URL"),
        ({"PAYOUTS_KEYS_DIRECTORY": "/nonexistent/keys"}, "PAYOUTS_KEYS_DIRECTORY"),
        ({"VISA_BASE_URL": "http://api.visa.example"}, "VISA_BASE_URL"),
        ({"PAYOUTS_DENY_THRESHOLD_BASIS_POINTS": "100"}, "PAYOUTS_DENY_THRESHOLD_BASIS_POINTS"),
    ],
)
def test_production_refuses_and_says_what_to_set(loaded: "Loader", changes: dict[str, str], named: str) -> None:
    """P6: plaintext Kafka or PostgreSQL, missing keys; the message holds no value of a secret."""
    problems = loaded(**changes).problems()
    assert [named in problem for problem in problems] == [True]
    assert SECRET not in " ".join(problems)


def test_production_refuses_sasl_without_credentials(loaded: "Loader", monkeypatch: pytest.MonkeyPatch) -> None:
    """ "checked at start": else the worker starts and every connection is refused."""
    settings = loaded()
    for name in ("KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"):
        monkeypatch.delenv(name)
    settings = load_settings()
    assert any("KAFKA_SASL" in problem for problem in settings.problems())


def test_the_agents_that_call_visa_need_all_of_its_material(loaded: "Loader") -> None:
    """Each missing variable is named."""
    problems = loaded().problems(needs_visa=True)
    for name in ("VISA_CERT_PATH", "VISA_KEY_PATH", "VISA_USER_ID", "VISA_MLE_KEY_ID", "VISA_MLE_PRIVATE_KEY_PATH"):
        assert any(problem.startswith(name) for problem in problems)
    assert not any(problem.startswith("VISA_PASSWORD") for problem in problems)


@pytest.mark.parametrize(
    ("mode", "owner", "user", "refused"),
    [
        (0o400, 10001, 10001, False),
        (0o600, 10001, 10001, False),
        (0o640, 10001, 10001, True),
        (0o604, 10001, 10001, True),
        (0o600, 0, 0, False),
        (0o640, 0, 0, True),
        # How Kubernetes hands a Secret to a user that is not root.
        (0o440, 0, 10001, False),
        (0o640, 0, 10001, False),
        (0o460, 0, 10001, True),
        (0o450, 0, 10001, True),
        (0o444, 0, 10001, True),
    ],
)
def test_a_private_key_is_not_for_others(mode: int, owner: int, user: int, refused: bool) -> None:
    """P6: only we, or root and the group through which root gives it to us."""
    assert open_to_others(0o100000 | mode, owner, user) is refused


def test_the_test_profile_allows_plaintext_on_loopback() -> None:
    """A laptop."""
    assert Settings(payouts_profile=Profile.TEST).problems() == []


@pytest.mark.parametrize("profile", list(Profile))
def test_times_fit_into_each_other(profile: Profile) -> None:
    """L3, S3, design 6: session, rebalance, lease and HTTP times are chosen together."""
    settings = Settings(payouts_profile=profile)
    schedule = settings.schedule
    assert settings.http_total_seconds + schedule.clock_skew_seconds < schedule.lease_seconds
    assert schedule.in_flight_horizon_seconds >= schedule.lease_seconds
    assert settings.session_timeout_seconds < settings.rebalance_timeout_seconds
    assert settings.http_total_seconds < settings.rebalance_timeout_seconds
    assert settings.unconfirmed_seconds < schedule.lease_seconds


def test_a_lease_that_is_set_is_used_or_refused(loaded: "Loader") -> None:
    """L3: a setting that exists has an effect, and one shorter than the longest call is refused."""
    longer = loaded(PAYOUTS_LEASE_SECONDS="120")
    assert longer.schedule.lease_seconds == 120.0
    shorter = loaded(PAYOUTS_LEASE_SECONDS="30")
    assert any("lease" in problem.lower() for problem in shorter.problems())


def test_a_commit_time_out_longer_than_the_lease_is_refused(loaded: "Loader") -> None:
    """L3, L4: an intent confirmed after its own lease can never be sent."""
    assert loaded(PAYOUTS_COMMIT_TIMEOUT_SECONDS="100").problems()


def test_thresholds_that_compliance_refuses_are_refused_at_the_start(loaded: "Loader") -> None:
    """Checked at start, not when the first payout is screened."""
    settings = loaded(PAYOUTS_REVIEW_THRESHOLD_BASIS_POINTS="0")
    with pytest.raises(ValueError, match="thresholds"):
        Thresholds(settings.payouts_review_threshold_basis_points, settings.payouts_deny_threshold_basis_points)
    assert settings.problems()


def test_secrets_are_in_no_repr_and_no_dump(loaded: "Loader") -> None:
    """P6."""
    settings = loaded()
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PAYOUTS_HTTP_PORT", SECRET),
        ("PAYOUTS_PROFILE", SECRET),
        ("VISA_ACQUIRING_BIN", SECRET),
        ("PAYOUTS_TOPIC_PREFIX", f"{SECRET} with spaces"),
        ("VISA_CARD_ACCEPTOR_NAME", SECRET * 10),
        ("PAYOUTS_IN_FLIGHT_MAX", "0"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named_without_its_value(loaded: "Loader", name: str, value: str) -> None:
    """P6: somebody may have put a secret into the wrong variable."""
    with pytest.raises(SettingsInvalid) as refused:
        loaded(**{name: value})
    assert name in str(refused.value)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_validation_errors_hide_their_input() -> None:
    """P6: also for whoever builds the settings himself."""
    with pytest.raises(ValidationError) as refused:
        Settings(payouts_http_port=SECRET)  # type: ignore[arg-type]
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("url", [f"postgresql://payouts:{SECRET}＃@db/payouts", f"postgresql://payouts:{SECRET}@[db"])
def test_a_database_url_that_is_none_is_a_problem_without_its_password(loaded: "Loader", url: str) -> None:
    """P6: the standard library's own errors quote the part of the address that holds the password."""
    problems = loaded(DATABASE_URL=url).problems()
    assert any("DATABASE_URL" in problem for problem in problems)
    assert SECRET not in " ".join(problems)


def test_a_file_gives_settings_and_the_environment_wins(
    loaded: "Loader", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Documented order."""
    file = tmp_path / "payouts.env"
    file.write_text("PAYOUTS_HTTP_PORT=7001\nPAYOUTS_IN_FLIGHT_MAX=9\n")
    monkeypatch.setenv("PAYOUTS_SETTINGS_FILE", str(file))
    settings = loaded(PAYOUTS_HTTP_PORT="7002")
    assert (settings.payouts_http_port, settings.payouts_in_flight_max) == (7002, 9)
    monkeypatch.setenv("PAYOUTS_SETTINGS_FILE", str(tmp_path / "missing.env"))
    with pytest.raises(SettingsInvalid, match="does not exist"):
        load_settings()


def test_the_retry_budget_and_its_delays_can_be_set(loaded: "Loader") -> None:
    """S7: all configurable; what is not set is the profile's."""
    schedule = loaded(
        RETRY_BASE_DELAY_SECONDS="2",
        RETRY_MAX_DELAY_SECONDS="20",
        RETRY_BUDGET="7",
        RETRY_BUDGET_MAX_DELAY_SECONDS="90",
    ).schedule
    assert (schedule.retry_base_seconds, schedule.retry_max_seconds, schedule.retry_budget) == (2.0, 20.0, 7)
    assert (schedule.retry_multiplier, schedule.own_retry_max_seconds) == (2.0, 90.0)


def test_retry_times_that_contradict_each_other_are_refused(loaded: "Loader") -> None:
    """S7: a first delay longer than the longest is a mistake that must be seen at once."""
    with pytest.raises(SettingsInvalid, match="RETRY_ variables contradict"):
        loaded(RETRY_BASE_DELAY_SECONDS="30", RETRY_MAX_DELAY_SECONDS="10")


@pytest.mark.parametrize("form", ["uuid", "ulid", "prefix+ts", "originator"])
def test_the_request_id_has_a_format(loaded: "Loader", form: str) -> None:
    """S1-02: B11's names; what is chosen is what calls and events get."""
    settings = loaded(REQUEST_ID_FORMAT=form, REQUEST_ID_PREFIX="acme")
    assert (settings.request_ids.form, settings.request_ids.prefix) == (form, "acme")


@pytest.mark.parametrize(
    ("name", "value"),
    [("REQUEST_ID_FORMAT", "guid"), ("REQUEST_ID_PREFIX", "4111111111111111"), ("REQUEST_ID_PREFIX", "two words")],
)
def test_a_request_id_that_could_not_be_sent_is_refused_at_start(loaded: "Loader", name: str, value: str) -> None:
    """S1-02: not when a lease is held; the value is not quoted."""
    with pytest.raises(SettingsInvalid, match=name) as refused:
        loaded(**{name: value})
    assert value not in str(refused.value)


@pytest.mark.parametrize("name", ["VISA_RATE_LIMIT_PER_SECOND", "VISA_ORIGINATOR_RATE_LIMIT_PER_SECOND"])
def test_a_rate_that_the_watchdog_would_take_for_a_standstill_is_refused(loaded: "Loader", name: str) -> None:
    """S0-22: 64 slots of three agents, each with a question, must pass within 280 s: else the worker ends itself."""
    problems = loaded(**{name: "1.3"}).problems()
    assert [name in problem for problem in problems] == [True]
    assert loaded(**{name: "1.4"}).problems() == []
    assert loaded(**{name: "1", "PAYOUTS_IN_FLIGHT_MAX": "40"}).problems() == []


@pytest.mark.parametrize("value", ["0", "-1", "fast"])
def test_a_rate_that_lets_nothing_through_is_no_rate(loaded: "Loader", value: str) -> None:
    """S0-22."""
    with pytest.raises(SettingsInvalid, match="VISA_RATE_LIMIT_PER_SECOND"):
        loaded(VISA_RATE_LIMIT_PER_SECOND=value)
