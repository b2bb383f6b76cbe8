"""``python -m sandbox.conformance``: run the suite against a stand-in of its own, or against what BASE_URL names."""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sandbox.conformance.client import Client, Target
from sandbox.conformance.suite import Need, Outcome, as_json, cases, report, run_all
from sandbox.servers.visa_stand_in import VisaStandIn

# Visa's hosts that move no real money; every other host of Visa's is refused.
PLAY_MONEY_HOSTS: Final = frozenset({"sandbox.api.visa.com", "cert.api.visa.com"})
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})

_EXAMPLES = """\
examples:
  python -m sandbox.conformance
  python -m sandbox.conformance --only push,query --output json
  VISA_USER_ID=... VISA_PASSWORD=... python -m sandbox.conformance --base-url https://sandbox.api.visa.com

Credentials are read from the environment, under the names that a worker knows: VISA_USER_ID, VISA_PASSWORD,
VISA_CERT_PATH, VISA_KEY_PATH, VISA_CA_PATH (unless the system knows the authority), VISA_MLE_KEY_ID,
VISA_MLE_SERVER_CERTIFICATE_PATH, VISA_MLE_PRIVATE_KEY_PATH; and VISA_ACQUIRING_BIN, VISA_ACQUIRER_COUNTRY,
VISA_INITIATING_PARTY_ID if they are not those of Visa's samples.
"""


class Refused(Exception):
    """The suite does not run like this; the message says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if no case failed, 1 if one did, 2 on misuse, 3 if the target is refused."""
    given = _parser().parse_args(arguments)
    chosen = frozenset(filter(None, given.only.split(",")))
    try:
        with _target(given.base_url, os.environ) as target:
            outcomes = asyncio.run(_run(target, chosen, yes_moves_money=given.yes_moves_sandbox_money))
    except Refused as error:
        sys.stderr.write(f"conformance: {error}\n")
        return 3
    sys.stdout.write((as_json(outcomes) if given.output == "json" else report(outcomes)) + "\n")
    return 1 if any(outcome.result == "FAIL" for outcome in outcomes) else 0


async def _run(target: Target, chosen: frozenset[str], *, yes_moves_money: bool) -> list[Outcome]:
    allowed = allowed_needs(target, yes_moves_money=yes_moves_money)
    known = cases()
    unknown = chosen - {name for case in known for name in (case.fact.operation, case.fact.id)}
    if unknown:
        raise Refused(f"--only names neither an operation nor a fact: {', '.join(sorted(unknown))}")
    wanted = [case for case in known if not chosen or {case.fact.operation, case.fact.id} & chosen]
    async with Client(target) as client:
        return await run_all(client, wanted, allowed)


def allowed_needs(target: Target, *, yes_moves_money: bool) -> frozenset[Need]:
    """What cases may need of this target."""
    if target.admin_url is not None:
        return frozenset({"stand_in", "money", "header_forcing"})
    needs: set[Need] = {"sandbox"}
    if yes_moves_money:
        needs |= {"money", "header_forcing"}
    return frozenset(needs)


def check_host(base_url: str) -> None:
    """Raises Refused for a host of Visa's that moves real money, and for what is not https."""
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower().rstrip(".")
    if parts.scheme != "https" or not host:
        raise Refused("the base URL must be https://HOST")
    of_visa = host == "visa.com" or host.endswith(".visa.com")
    if of_visa and host not in PLAY_MONEY_HOSTS:
        raise Refused(f"{host} may move real money. The suite runs against {', '.join(sorted(PLAY_MONEY_HOSTS))} only.")


@contextlib.contextmanager
def _target(base_url: str | None, environment: Mapping[str, str]) -> Iterator[Target]:
    if base_url:
        yield target_of({**environment, "VISA_BASE_URL": base_url})
        return
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        stand_in = VisaStandIn(Path(directory) / "visa")
        stand_in.start()
        try:
            yield target_of(stand_in.environment(), stand_in.admin_url)
        finally:
            stand_in.stop()


def target_of(environment: Mapping[str, str], admin_url: str | None = None) -> Target:
    """The target that the variables describe. Raises Refused, which names the variable, never its value."""

    def needed(name: str) -> str:
        if not environment.get(name):
            raise Refused(f"{name} is not set")
        return environment[name]

    def file(name: str) -> Path:
        path = Path(needed(name))
        if not path.is_file():
            raise Refused(f"{name} names no readable file")
        return path

    base_url = needed("VISA_BASE_URL")
    check_host(base_url)
    return Target(
        base_url=base_url,
        user_id=needed("VISA_USER_ID"),
        password=needed("VISA_PASSWORD"),
        certificate=file("VISA_CERT_PATH"),
        key=file("VISA_KEY_PATH"),
        ca=file("VISA_CA_PATH") if environment.get("VISA_CA_PATH") else None,
        mle_key_id=needed("VISA_MLE_KEY_ID"),
        mle_server_certificate=file("VISA_MLE_SERVER_CERTIFICATE_PATH"),
        mle_private_key=file("VISA_MLE_PRIVATE_KEY_PATH"),
        admin_url=admin_url,
        acquiring_bin=environment.get("VISA_ACQUIRING_BIN") or "408999",
        acquirer_country=environment.get("VISA_ACQUIRER_COUNTRY") or "840",
        initiating_party_id=environment.get("VISA_INITIATING_PARTY_ID") or "1002",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.conformance",
        description="Check whatever speaks Visa Direct against what Visa publishes about it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base-url", default="", help="whom to check; without it, a stand-in started for the purpose")
    parser.add_argument("--only", default="", metavar="NAME,...", help="operations or facts, as in push,F-065")
    parser.add_argument("--output", choices=("table", "json"), default="table", help="for people or for programs")
    parser.add_argument(
        "--yes-moves-sandbox-money",
        action="store_true",
        help="allow the cases that push money of a sandbox, when the target is not a stand-in of ours",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
