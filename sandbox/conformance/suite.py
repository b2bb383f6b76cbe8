"""Facts, the cases that check them, and how they are run and reported."""

import importlib
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import httpx
import yaml
from pydantic import BaseModel, ConfigDict, Field

from sandbox.conformance.client import Client, Mismatch, NotApplicable

FACTS_FILE: Final = Path(__file__).with_name("facts.yaml")
CASE_MODULES: Final = (
    "cases_gateway",
    "cases_push",
    "cases_fields",
    "cases_query",
    "cases_report",
    "cases_reverse",
    "cases_inquiry",
    "cases_accounts",
)

Need = Literal["stand_in", "sandbox", "money", "header_forcing"]
Result = Literal["PASS", "FAIL", "NOT APPLICABLE"]
Run = Callable[[Client], Awaitable[None]]
Basis = Literal["documented", "quoted", "measured", "third_party", "inferred"]

WHY_NOT: Final[Mapping[Need, str]] = {
    "stand_in": "needs the stand-in's own port: a state that nobody can bring about at Visa",
    "sandbox": "only Visa itself can show this",
    "money": "moves the sandbox's money; --yes-moves-sandbox-money allows it",
    "header_forcing": "forces a 202 by a header that only sandboxes obey",
}


class Fact(BaseModel):
    """One published fact about an operation of ours. ``no_case`` says why nothing checks it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^F-[0-9]{3}$")]
    operation: str
    basis: Basis
    source: str
    says: str
    no_case: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """What checks one fact. ``run`` returns, or raises Mismatch or NotApplicable."""

    fact: Fact
    needs: frozenset[Need]
    run: Run


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended, with the reason unless it passed."""

    fact: Fact
    result: Result
    why: str
    seconds: float


_REGISTERED: Final[dict[str, tuple[frozenset[Need], Run]]] = {}


def case(fact_id: str, *needs: Need) -> Callable[[Run], Run]:
    """Register a function as the case of a fact. Raises ValueError if the fact has one."""

    def register(run: Run) -> Run:
        if fact_id in _REGISTERED:
            raise ValueError(f"{fact_id} has two cases")
        _REGISTERED[fact_id] = (frozenset(needs), run)
        return run

    return register


def facts() -> list[Fact]:
    """Every fact of the data file, in its order."""
    return [Fact.model_validate(item) for item in yaml.safe_load(FACTS_FILE.read_text("utf-8"))]


def registered() -> Mapping[str, tuple[frozenset[Need], Run]]:
    """What the modules of cases registered, by fact."""
    for module in CASE_MODULES:
        importlib.import_module(f"{__package__}.{module}")
    return _REGISTERED


def cases() -> list[Case]:
    """Every case, in the order of the facts."""
    known = registered()
    return [Case(fact, *known[fact.id]) for fact in facts() if fact.id in known]


async def run_all(client: Client, chosen: Iterable[Case], allowed: frozenset[Need]) -> list[Outcome]:
    """Run the cases one after the other, each from a clean state. ``allowed`` are the needs that can be met."""
    return [await _run(client, case, allowed) for case in chosen]


async def _run(client: Client, case: Case, allowed: frozenset[Need]) -> Outcome:
    began = time.monotonic()
    missing = sorted(case.needs - allowed)
    if missing:
        return Outcome(case.fact, "NOT APPLICABLE", WHY_NOT[missing[0]], 0.0)
    result: Result = "PASS"
    why = ""
    try:
        await client.reset()
        await case.run(client)
    except Mismatch as error:
        result, why = "FAIL", str(error)
    except NotApplicable as error:
        result, why = "NOT APPLICABLE", str(error)
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # The answer has another shape, or there is none. The text may quote it, so only the kind is said.
        result, why = "FAIL", f"no answer of the documented shape ({type(error).__name__})"
    return Outcome(case.fact, result, why, time.monotonic() - began)


def report(outcomes: list[Outcome]) -> str:
    """A table for people: one line a case, the sums at the end."""
    lines = [f"{'fact':7}{'operation':13}{'result':16}what"]
    for outcome in outcomes:
        says = f"{outcome.fact.says}  -- {outcome.why}" if outcome.why else outcome.fact.says
        lines.append(f"{outcome.fact.id:7}{outcome.fact.operation:13}{outcome.result:16}{says}")
    counted = {result: sum(outcome.result == result for outcome in outcomes) for result in ("PASS", "FAIL")}
    rest = len(outcomes) - sum(counted.values())
    lines.append(
        f"conformance cases={len(outcomes)} pass={counted['PASS']} fail={counted['FAIL']} not_applicable={rest}"
    )
    return "\n".join(lines)


def as_json(outcomes: list[Outcome]) -> str:
    """The same for programs: one object a line."""
    return "\n".join(
        json.dumps(
            {
                "fact": outcome.fact.id,
                "operation": outcome.fact.operation,
                "basis": outcome.fact.basis,
                "result": outcome.result,
                "why": outcome.why,
                "seconds": round(outcome.seconds, 3),
            }
        )
        for outcome in outcomes
    )
