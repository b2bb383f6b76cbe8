"""The policy file is held to its schema as a whole, and unknown corridors are refused (P7, B8, G14)."""

import hashlib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.validation.policy import ComplianceScope, PolicyInvalid, Preflight, load_policy, parse_policy
from processors.validation.request import Corridor, DestinationKind

ONE = """\
version: "1"
corridors:
  - sourceCountry: "US"
    targetCountry: "MX"
    currencies: {source: "USD", target: "MXN"}
    rules:
      fx: {lockRequired: true}
      rails: {allowedDestinations: [card]}
      limits: {maxValueMinor: 5}
"""


def _corridor(source: str, target: str, source_currency: str, target_currency: str) -> Corridor:
    return Corridor(
        source_country=source,
        target_country=target,
        source_currency=source_currency,
        target_currency=target_currency,
    )


def test_the_shipped_policy_loads_and_is_stamped_with_its_hash() -> None:
    """P7: version and SHA-256 of the very bytes."""
    content = resources.files("policies").joinpath("corridors.yaml").read_bytes()
    policy = load_policy()
    assert policy.sha256 == hashlib.sha256(content).hexdigest()
    assert policy.stamp == f"{policy.version}+sha256.{policy.sha256[:16]}"


def test_rules_are_read_and_scope_defaults_to_all() -> None:
    """F-17: screening is for all payouts unless the corridor says otherwise."""
    rules = parse_policy(ONE.encode(), "one.yaml").rules_for(_corridor("US", "MX", "USD", "MXN"))
    assert rules is not None
    assert rules.lock_required
    assert rules.compliance_scope is ComplianceScope.ALL
    assert rules.allowed_destinations == {DestinationKind.CARD}
    assert rules.max_value_minor == 5


def test_preflight_and_slippage_are_off_unless_the_corridor_says_so() -> None:
    """B8: an older file asks Visa nothing; each question is turned on by itself, and `false` is off."""
    corridor = _corridor("US", "MX", "USD", "MXN")
    rules = parse_policy(ONE.encode(), "one.yaml").rules_for(corridor)
    assert rules is not None
    assert (rules.slippage_bps_max, rules.preflight) == (None, frozenset())
    asking = ONE.replace("lockRequired: true", "lockRequired: true, slippageBpsMax: 0").replace(
        "      rails", "      preflight: {cardAttributes: true, cardValidation: false}\n      rails"
    )
    rules = parse_policy(asking.encode(), "asking.yaml").rules_for(corridor)
    assert rules is not None
    assert (rules.slippage_bps_max, rules.preflight) == (0, {Preflight.CARD_ATTRIBUTES})


def test_what_could_never_apply_is_refused() -> None:
    """G14: a bound without two currencies, a question about cards where none is paid to."""
    one_currency = ONE.replace("lockRequired: true", "lockRequired: true, slippageBpsMax: 5").replace('"MXN"', '"USD"')
    with pytest.raises(PolicyInvalid, match=r"slippageBpsMax: the corridor has one currency"):
        parse_policy(one_currency.encode(), "wrong.yaml")
    no_cards = ONE.replace("[card]", "[account]").replace(
        "      rails", "      preflight: {cardValidation: true}\n      rails"
    )
    with pytest.raises(PolicyInvalid, match=r"cardValidation: the corridor allows no alias or card"):
        parse_policy(no_cards.encode(), "wrong.yaml")


def test_an_unlisted_corridor_has_no_rules() -> None:
    """B8: unknown corridor fails closed; the way back is another corridor."""
    policy = parse_policy(ONE.encode(), "one.yaml")
    for corridor in (("MX", "US", "MXN", "USD"), ("US", "MX", "USD", "USD"), ("US", "US", "USD", "USD")):
        assert policy.rules_for(_corridor(*corridor)) is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("maxValueMinor: 5", "maxValueMinor: 5, dailyCountMax: 3", r"limits: .*dailyCountMax"),
        ("lockRequired: true", "lockRequired: true, slippage: 50", r"fx: .*slippage"),
        ("lockRequired: true", "lockRequired: true, slippageBpsMax: -1", r"slippageBpsMax"),
        ("lockRequired: true", "lockRequired: true, slippageBpsMax: 10001", r"slippageBpsMax"),
        ("lockRequired: true", "lockRequired: true, slippageBpsMax: 0.5", r"slippageBpsMax"),
        ("      rails", "      preflight: true\n      rails", r"preflight"),
        ("      rails", "      preflight: {}\n      rails", r"preflight"),
        ("      rails", "      preflight: {pav: true}\n      rails", r"preflight: .*pav"),
        ("      rails", "      preflight: {accountValidation: true}\n      rails", r"allows no account or wallet"),
        ("maxValueMinor: 5", "maxValueMinor: 0", r"maxValueMinor"),
        ("maxValueMinor: 5", "maxValueMinor: 5.5", r"maxValueMinor"),
        ("maxValueMinor: 5", 'maxValueMinor: "5"', r"maxValueMinor"),
        ("maxValueMinor: 5", "maxValueMinor: 5, maxValueMinor: 500", r"line 9: .*twice"),
        ("lockRequired: true", "lockRequired: maybe", r"lockRequired"),
        ("[card]", "[]", r"allowedDestinations"),
        ("[card]", "[cheque]", r"allowedDestinations"),
        ('targetCountry: "MX"', "targetCountry: NO", r"targetCountry: .*NO as false"),
        ('targetCountry: "MX"', 'targetCountry: "XX"', r"'XX' is no ISO 3166-1"),
        ('"MXN"', '"QQQ"', r"'QQQ' is no ISO 4217"),
        ('version: "1"', "version: 1", r"\$\.version"),
        ('version: "1"', "", r"'version' is a required property"),
        ("    rules:", "    <<: *x\n    rules:", r"alias"),
        ("corridors:", "corridors: [", r"line \d+: not acceptable YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_place(old: str, new: str, expected: str) -> None:
    """G14: nothing is declared and then not enforced; P9: the message says file, place and what is wrong."""
    text = ONE.replace(old, new)
    assert text != ONE
    with pytest.raises(PolicyInvalid, match=expected) as caught:
        parse_policy(text.encode(), "wrong.yaml")
    assert str(caught.value).startswith("wrong.yaml")


def test_a_repeated_corridor_is_refused() -> None:
    """Two sets of rules for one corridor: nobody could say which holds."""
    again = ONE + ONE.partition("corridors:\n")[2].replace("maxValueMinor: 5", "maxValueMinor: 500")
    with pytest.raises(PolicyInvalid, match=r"corridors\[1\] repeats"):
        parse_policy(again.encode(), "twice.yaml")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"- 1", b"null", b"\x00", b"!!python/object:os.system {}"])
def test_what_is_no_policy_is_refused(content: bytes) -> None:
    """Fail closed: no default policy stands in for an unreadable one."""
    with pytest.raises(PolicyInvalid):
        parse_policy(content, "junk.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Errors say which file."""
    with pytest.raises(PolicyInvalid, match=r"absent\.yaml: the corridor policy cannot be read"):
        load_policy(tmp_path / "absent.yaml")


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200) | st.text(alphabet="[]{}:-&*!|>%@`#,\"' \nabc\t01", max_size=80).map(str.encode))
def test_junk_raises_only_policy_invalid(content: bytes) -> None:
    """P8: a broken file is an error with a name, at start, never a stack trace."""
    with pytest.raises(PolicyInvalid):
        parse_policy(content, "junk.yaml")
