"""The suite's book-keeping: one case a fact, whom it speaks to, and what it may do there."""

import re
from pathlib import Path

import pytest

from sandbox.conformance import __main__ as command
from sandbox.conformance.client import Target, changed
from sandbox.conformance.suite import Outcome, as_json, case, cases, facts, registered, report

README = Path(command.__file__).with_name("README.md")


def target(tmp_path: Path, admin_url: str | None = None) -> Target:
    return Target(
        base_url="https://sandbox.api.visa.com",
        user_id="user",
        password="secret-password",
        certificate=tmp_path,
        key=tmp_path,
        ca=None,
        mle_key_id="key",
        mle_server_certificate=tmp_path,
        mle_private_key=tmp_path,
        admin_url=admin_url,
    )


def test_every_fact_has_one_case_or_a_reason_why_not() -> None:
    """B13: nothing that Visa publishes about our operations is left out in silence."""
    known = facts()
    assert len({fact.id for fact in known}) == len(known)
    checked = set(registered())
    for fact in known:
        assert (fact.id in checked) != bool(fact.no_case), fact.id
    assert checked <= {fact.id for fact in known}


def test_a_fact_cannot_have_two_cases() -> None:
    """Two functions for one fact: the second would hide the first."""
    registered()
    with pytest.raises(ValueError, match="F-001 has two cases"):
        case("F-001")(cases()[0].run)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.visa.com",
        "https://API.VISA.COM.",
        "https://api.uk.visa.com",
        "https://visa.com/x",
        "http://sandbox.api.visa.com",
        "sandbox.api.visa.com",
        "https://sandbox.api.visa.com@api.visa.com",
    ],
)
def test_production_is_refused_whatever_the_options(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No real money: exit 3 before a connection, and no credentials are read."""
    monkeypatch.setenv("VISA_USER_ID", "someone")
    assert command.main(["--base-url", url, "--yes-moves-sandbox-money"]) == 3
    assert "someone" not in capsys.readouterr().err


def test_the_sandboxes_are_taken() -> None:
    """Visa's hosts without real money, and hosts that are not Visa's."""
    for url in ("https://sandbox.api.visa.com", "https://cert.api.visa.com:443", "https://127.0.0.1:9443"):
        command.check_host(url)


def test_money_is_not_moved_unless_allowed(tmp_path: Path) -> None:
    """Against anything without the stand-in's own port, only what cannot push runs."""
    at_visa, stand_in = target(tmp_path), target(tmp_path, "http://127.0.0.1:1")
    assert command.allowed_needs(at_visa, yes_moves_money=False) == {"sandbox"}
    assert command.allowed_needs(at_visa, yes_moves_money=True) == {"sandbox", "money", "header_forcing"}
    assert command.allowed_needs(stand_in, yes_moves_money=False) == {"stand_in", "money", "header_forcing"}


def test_a_case_that_posts_says_that_it_needs_money_or_the_stand_in() -> None:
    """A case without needs runs against Visa unasked: it may read, and ask questions that move nothing."""
    free = [case for case in cases() if not case.needs & {"money", "stand_in"}]
    questions = {"attributes", "validation", "rates"}
    reading = {case.fact.id for case in free if case.fact.operation not in questions}
    assert reading == {"F-001", "F-054", "F-055", "F-063", "F-073", "F-118", "F-137", "F-138", "F-139"}


def test_missing_credentials_are_named_and_never_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3, the variable's name, no value."""
    monkeypatch.setenv("VISA_USER_ID", "someone")
    monkeypatch.setenv("VISA_PASSWORD", "secret-password")
    monkeypatch.setenv("VISA_CERT_PATH", "/nowhere/at-all.pem")
    assert command.main(["--base-url", "https://sandbox.api.visa.com"]) == 3
    said = capsys.readouterr().err
    assert "VISA_CERT_PATH" in said
    assert "secret-password" not in said


def test_only_names_what_there_is(tmp_path: Path) -> None:
    """A misspelt operation must not look like a suite that passed."""
    with pytest.raises(command.Refused, match="pusch"):
        command.asyncio.run(command._run(target(tmp_path), frozenset({"pusch"}), yes_moves_money=False))


def test_the_report_counts_and_gives_reasons() -> None:
    """One line a case, the sums at the end; the same as JSON."""
    fact = facts()[0]
    outcomes = [Outcome(fact, "PASS", "", 0.1), Outcome(fact, "FAIL", "status: 1 instead of 2", 0.1)]
    lines = report(outcomes).splitlines()
    assert lines[-1] == "conformance cases=2 pass=1 fail=1 not_applicable=0"
    assert lines[2].endswith("-- status: 1 instead of 2")
    assert len(as_json(outcomes).splitlines()) == 2


def test_nothing_secret_is_in_a_targets_repr(tmp_path: Path) -> None:
    """P6."""
    assert "secret-password" not in repr(target(tmp_path))


def test_a_change_goes_into_a_copy() -> None:
    """Bodies are templates: what one case changes, the next must not see."""
    body = {"a": {"b": 1, "c": 2}}
    template = {"a": {"x": []}}
    assert changed(body, {"a.b": None, "d.e": 5}) == {"a": {"c": 2}, "d": {"e": 5}}
    changed(changed(body, template), {"a.x": [1]})
    assert (body, template) == ({"a": {"b": 1, "c": 2}}, {"a": {"x": []}})


def test_the_readme_names_every_variable_that_is_read() -> None:
    """What a user must set to point the suite at Visa's sandbox."""
    read = set(re.findall(r"VISA_[A-Z_]+", Path(command.__file__).read_text())) - {"VISA_BASE_URL"}
    assert read == set(re.findall(r"VISA_[A-Z_]+", README.read_text()))
