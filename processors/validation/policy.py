"""Which corridors are served and under which rules: a versioned YAML file held to a published JSON schema.

Unknown corridors have no rules, so they are refused. A file that cannot be understood completely is refused as a
whole: members that nothing would enforce, duplicate members, duplicate corridors, unknown codes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pycountry
import yaml
from jsonschema import Draft202012Validator

from processors.money import MoneyError, exponent
from processors.payout.row import ACCOUNT_DESTINATIONS, DestinationKind
from processors.policy_files import read_policy_file
from processors.validation.request import Corridor
from schemas.card_numbers import excerpt

# Five thousand corridors take less; a larger file is a mistake.
LARGEST_POLICY_BYTES: Final = 2 * 1024 * 1024
SHIPPED_POLICY: Final = "corridors.yaml"
_SCHEMA: Final = "corridors.schema.json"
# Enough of the hash to tell files apart in a record; the whole one is in `CorridorPolicy.sha256`.
_STAMPED_HASH_DIGITS: Final = 16


class PolicyInvalid(Exception):
    """The policy file cannot be used; the message names file, place and remedy."""

    def __init__(self, message: str) -> None:
        # It quotes what stands in the file, whatever that is and however long.
        super().__init__(excerpt(message))


class ComplianceScope(StrEnum):
    """Which payouts of a corridor are screened."""

    ALL = "all"
    CROSS_BORDER_ONLY = "cross-border-only"


class Preflight(StrEnum):
    """What is asked of Visa before the first intent."""

    CARD_ATTRIBUTES = "cardAttributes"
    CARD_VALIDATION = "cardValidation"
    ACCOUNT_VALIDATION = "accountValidation"


@dataclass(frozen=True, slots=True)
class CorridorRules:
    """The rules of one corridor; amounts in minor units of its source currency."""

    lock_required: bool
    compliance_scope: ComplianceScope
    allowed_destinations: frozenset[DestinationKind]
    max_value_minor: int
    slippage_bps_max: int | None = None
    """How far a locked rate may be from Visa's rate now, in hundredths of a percent of it; None: nobody asks."""
    preflight: frozenset[Preflight] = frozenset()


CorridorKey = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class CorridorPolicy:
    """One policy file: corridors by (source country, target country, source currency, target currency)."""

    version: str
    sha256: str
    corridors: Mapping[CorridorKey, CorridorRules]

    @property
    def stamp(self) -> str:
        """What decisions record (promise P7): the version and the beginning of the file's SHA-256."""
        return f"{self.version}+sha256.{self.sha256[:_STAMPED_HASH_DIGITS]}"

    def rules_for(self, corridor: Corridor) -> CorridorRules | None:
        """The rules of this corridor, or None: the corridor is not served."""
        return self.corridors.get(
            (corridor.source_country, corridor.target_country, corridor.source_currency, corridor.target_currency)
        )


def load_policy(path: Path | None = None) -> CorridorPolicy:
    """The policy in `path`, or the one that ships with the processor. Raises PolicyInvalid."""
    return parse_policy(*read_policy_file(path, SHIPPED_POLICY, what="corridor policy", invalid=PolicyInvalid))


def parse_policy(content: bytes, file_name: str) -> CorridorPolicy:
    """The policy in these bytes; `file_name` is for messages. Raises PolicyInvalid."""
    if len(content) > LARGEST_POLICY_BYTES:
        raise PolicyInvalid(f"{file_name}: the corridor policy is larger than {LARGEST_POLICY_BYTES} bytes")
    document = _checked(strict_yaml(content, file_name), file_name)
    corridors: dict[CorridorKey, CorridorRules] = {}
    for position, entry in enumerate(document["corridors"]):
        place = f"{file_name}: $.corridors[{position}]"
        key = _key(entry, place)
        if key in corridors:
            raise PolicyInvalid(f"{place} repeats the corridor {_shown(key)}; keep one of them")
        corridors[key] = _enforceable(_rules(entry["rules"]), key, place)
    return CorridorPolicy(document["version"], hashlib.sha256(content).hexdigest(), corridors)


class _StrictLoader(yaml.SafeLoader):
    """YAML without what makes a policy ambiguous: duplicate members, and aliases, which can also blow a file up."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not accepted", self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for position, (key, _) in enumerate(node.value):
            if key.value in names[:position]:
                message = f"the member {key.value!r} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
        return super().construct_mapping(node, deep)


def strict_yaml(content: bytes, file_name: str) -> object:
    """The document, without what makes a policy ambiguous. Raises PolicyInvalid."""
    try:
        document: object = yaml.load(content, Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise PolicyInvalid(f"{file_name}, line {line}: not acceptable YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise PolicyInvalid(f"{file_name}: not a YAML file in UTF-8") from None
    return document


@cache
def _validator() -> Draft202012Validator:
    schema = json.loads(resources.files("policies").joinpath(_SCHEMA).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def _checked(document: object, file_name: str) -> Mapping[str, Any]:
    errors = sorted(_validator().iter_errors(document), key=lambda error: error.json_path)
    if errors or not isinstance(document, Mapping):
        first = errors[0]
        hint = (
            "; quote the code (YAML reads NO as false)" if first.instance is False and first.validator == "type" else ""
        )
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise PolicyInvalid(f"{file_name}: {first.json_path}: {first.message}{hint}{more}; see {_SCHEMA}")
    return document


def _key(entry: Mapping[str, Any], place: str) -> CorridorKey:
    for name in ("sourceCountry", "targetCountry"):
        if pycountry.countries.get(alpha_2=entry[name]) is None:
            raise PolicyInvalid(f"{place}.{name}: {entry[name]!r} is no ISO 3166-1 country")
    for name, currency in entry["currencies"].items():
        try:
            exponent(currency)
        except MoneyError:
            raise PolicyInvalid(f"{place}.currencies.{name}: {currency!r} is no ISO 4217 currency") from None
    currencies = entry["currencies"]
    return entry["sourceCountry"], entry["targetCountry"], currencies["source"], currencies["target"]


def _rules(rules: Mapping[str, Any]) -> CorridorRules:
    return CorridorRules(
        lock_required=rules["fx"]["lockRequired"],
        compliance_scope=ComplianceScope(rules.get("compliance", {}).get("scope", ComplianceScope.ALL)),
        allowed_destinations=frozenset(DestinationKind(name.upper()) for name in rules["rails"]["allowedDestinations"]),
        max_value_minor=rules["limits"]["maxValueMinor"],
        slippage_bps_max=rules["fx"].get("slippageBpsMax"),
        preflight=frozenset(Preflight(name) for name, is_on in rules.get("preflight", {}).items() if is_on),
    )


def _enforceable(rules: CorridorRules, key: CorridorKey, place: str) -> CorridorRules:
    """The same rules, if each of them can ever apply: what is declared and not enforced is a mistake."""
    _, _, source_currency, target_currency = key
    if rules.slippage_bps_max is not None and source_currency == target_currency:
        raise PolicyInvalid(f"{place}.rules.fx.slippageBpsMax: the corridor has one currency, so there is no rate")
    for asked, kinds in _ASKED_ABOUT.items():
        if asked in rules.preflight and not kinds & rules.allowed_destinations:
            allowed = " or ".join(sorted(kind.lower() for kind in kinds))
            raise PolicyInvalid(f"{place}.rules.preflight.{asked}: the corridor allows no {allowed}")
    return rules


_CARDS: Final = frozenset({DestinationKind.CARD, DestinationKind.ALIAS})
_ASKED_ABOUT: Final[Mapping[Preflight, frozenset[DestinationKind]]] = {
    Preflight.CARD_ATTRIBUTES: _CARDS,
    Preflight.CARD_VALIDATION: _CARDS,
    Preflight.ACCOUNT_VALIDATION: ACCOUNT_DESTINATIONS,
}


def _shown(key: CorridorKey) -> str:
    return f"{key[0]}->{key[1]} {key[2]}/{key[3]}"
