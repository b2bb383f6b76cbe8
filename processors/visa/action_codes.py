"""The table of action codes (`action_codes.yaml`), read once and refused when it is not exactly what it should be."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

import yaml

from processors.visa.unique_yaml import RepeatedKey, load_unique

APPROVED: Final = frozenset({"00", "11"})
PARTIALLY_APPROVED: Final = "10"
DUPLICATE: Final = "94"
# Codes that the outcome tree decides by itself; the table must not call them declines.
_RESERVED: Final = APPROVED | {PARTIALLY_APPROVED, DUPLICATE}
_CODE: Final = re.compile(r"[0-9A-Z]{2}")
_CATEGORIES: Final = frozenset(
    {
        "account", "administrative", "approval", "authentication", "card", "compliance", "data", "duplicate", "limit",
        "partial", "policy", "temporary",
    }
)  # fmt: skip
_SOURCES: Final = frozenset({"openapi", "published-tables"})


class ActionCodesInvalid(Exception):
    """The table cannot be trusted to decide about money; the text says which entry is wrong."""


@dataclass(frozen=True, slots=True)
class ActionCode:
    """One line of the table. `declined` is the allow-list of rule S5; the rest informs people (rule S9)."""

    code: str
    meaning: str
    category: str
    declined: bool
    source: str


@cache
def action_codes() -> Mapping[str, ActionCode]:
    """The table by code. Raises ActionCodesInvalid."""
    return parse_action_codes(resources.files(__package__).joinpath("action_codes.yaml").read_text(encoding="utf-8"))


def parse_action_codes(text: str) -> Mapping[str, ActionCode]:
    """The table from its text, checked. Raises ActionCodesInvalid."""
    try:
        document = load_unique(text)
    except RepeatedKey as error:
        raise ActionCodesInvalid(str(error)) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ActionCodesInvalid(f"the file is not acceptable YAML ({type(error).__name__})") from None
    if not isinstance(document, dict) or set(document) != {"codes"} or not isinstance(document["codes"], dict):
        raise ActionCodesInvalid("the file must hold one mapping named codes")
    return MappingProxyType({code: _entry(code, entry) for code, entry in document["codes"].items()})


def is_action_code(value: object) -> bool:
    """Whether the value has the form of an action code: two digits or capital letters, as text."""
    return isinstance(value, str) and _CODE.fullmatch(value) is not None


def declines(code: str) -> bool:
    """Whether the answer to a push with this code proves that it was not paid."""
    entry = action_codes().get(code)
    return entry is not None and entry.declined


def _entry(code: object, entry: object) -> ActionCode:
    if not isinstance(code, str) or not is_action_code(code):
        raise ActionCodesInvalid("every code must be two digits or capital letters in quotes")
    if not isinstance(entry, dict) or set(entry) != {"meaning", "category", "declined", "source"}:
        raise ActionCodesInvalid(f"code {code} must have exactly meaning, category, declined and source")
    if not isinstance(entry["declined"], bool) or (entry["declined"] and code in _RESERVED):
        raise ActionCodesInvalid(f"code {code}: declined must be true or false, and false for {sorted(_RESERVED)}")
    # As texts: what is no text may not be hashable either.
    if str(entry["category"]) not in _CATEGORIES or str(entry["source"]) not in _SOURCES:
        raise ActionCodesInvalid(f"code {code} has a category or source that the head of the file does not name")
    if not isinstance(entry["meaning"], str) or not entry["meaning"]:
        raise ActionCodesInvalid(f"code {code} needs a meaning")
    return ActionCode(code, entry["meaning"], entry["category"], entry["declined"], entry["source"])
