"""How people decide a watch-list match: reason codes, how long a case may wait, when two approvals are needed (R1).

A versioned YAML file held to a published JSON schema; one that cannot be understood completely is refused as a whole.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator

from processors.money import MoneyError, exponent
from processors.policy_files import read_policy_file
from processors.validation.policy import PolicyInvalid, strict_yaml

SHIPPED_REVIEW_POLICY: Final = "review.yaml"
LARGEST_BYTES: Final = 64 * 1024
"""Two hundred codes with their meanings take less; a larger file is a mistake."""
_SCHEMA: Final = "review.schema.json"


@dataclass(frozen=True, slots=True)
class ReviewPolicy:
    """The rules of one file."""

    version: str
    sla_seconds: int
    second_approval_from_minor: Mapping[str, int]
    """By source currency; one that is not listed needs one approval."""
    approve_codes: Mapping[str, str]
    reject_codes: Mapping[str, str]

    def approvals_needed(self, amount_minor: int, currency: str) -> int:
        """How many people have to approve: 1 or 2."""
        limit = self.second_approval_from_minor.get(currency)
        return 2 if limit is not None and amount_minor >= limit else 1

    def codes(self, *, approved: bool) -> Mapping[str, str]:
        """The reason codes of a decision, with their meaning."""
        return self.approve_codes if approved else self.reject_codes


def load_review_policy(path: Path | None = None) -> ReviewPolicy:
    """The policy in `path`, or the one that ships with the processor. Raises PolicyInvalid."""
    return parse_review_policy(
        *read_policy_file(path, SHIPPED_REVIEW_POLICY, what="review policy", invalid=PolicyInvalid)
    )


def parse_review_policy(content: bytes, file_name: str) -> ReviewPolicy:
    """The policy in these bytes; `file_name` is for messages. Raises PolicyInvalid."""
    if len(content) > LARGEST_BYTES:
        raise PolicyInvalid(f"{file_name}: the review policy is larger than {LARGEST_BYTES} bytes")
    document = _checked(strict_yaml(content, file_name), file_name)
    for currency, limit in document["secondApprovalFromMinor"].items():
        if not isinstance(limit, int):  # to JSON schema 500.00 is an integer, to whoever wrote it five hundred dollars
            place = f"{file_name}: $.secondApprovalFromMinor.{currency}"
            raise PolicyInvalid(f"{place}: {limit!r} is no number of minor units; write it without a decimal point")
        try:
            exponent(currency)
        except MoneyError:
            place = f"{file_name}: $.secondApprovalFromMinor"
            raise PolicyInvalid(f"{place}: {currency!r} is no ISO 4217 currency") from None
    return ReviewPolicy(
        version=document["version"],
        sla_seconds=document["slaSeconds"],
        second_approval_from_minor=document["secondApprovalFromMinor"],
        approve_codes=document["reasonCodes"]["approve"],
        reject_codes=document["reasonCodes"]["reject"],
    )


@cache
def _validator() -> Draft202012Validator:
    schema = json.loads(resources.files("policies").joinpath(_SCHEMA).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def _checked(document: object, file_name: str) -> Mapping[str, Any]:
    errors = sorted(_validator().iter_errors(document), key=lambda error: error.json_path)
    if errors or not isinstance(document, Mapping):
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise PolicyInvalid(f"{file_name}: {errors[0].json_path}: {errors[0].message}{more}; see {_SCHEMA}")
    return document
