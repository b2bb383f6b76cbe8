"""``python -m sandbox.visa_direct``: run the stand-in until SIGTERM or SIGINT."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from sandbox.visa_direct.credentials import CredentialsError
from sandbox.visa_direct.keyring import Keyring, RotationError
from sandbox.visa_direct.server import StartError, running
from sandbox.visa_direct.settings import ENROLLED, Settings

_EXAMPLES = """\
examples:
  python -m sandbox.visa_direct --port 0 --state-dir /tmp/visa
  python -m sandbox.visa_direct --port 9443 --admin-port 9480 --state-dir /tmp/visa --latency-ms 50
  curl -s "$(jq -r .admin_url /tmp/visa/endpoint.json)/sandbox/ledger?after=0&limit=10"
  curl -s -X PUT "$(jq -r .admin_url /tmp/visa/endpoint.json)/sandbox/faults" \\
       -d '{"seed": 7, "rules": [{"operation": "push", "fault": "effect_then_silence", "probability": 0.01}]}'

A client finds certificates, keys and credentials.json in <state-dir>/credentials/client. The ledger, the fault
plan and work answered with 202 survive a kill; start again with the same --state-dir and ports to go on.
SIGHUP reads the TLS certificates again without refusing a connection.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 after a signal, 1 if it cannot start (the reason is on stderr); argparse ends with 2 on misuse."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    settings = _settings(arguments)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings))
    except (StartError, CredentialsError) as error:
        sys.stderr.write(f"visa_direct: {error}\n")
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with running(settings) as endpoint:
        reload = Reload(endpoint.keyring)
        loop.add_signal_handler(signal.SIGHUP, reload.start)
        sys.stderr.write(
            f"visa_direct: {endpoint.base_url} (admin {endpoint.admin_url}, state {settings.state_directory})\n"
        )
        sys.stderr.flush()
        await stopped.wait()


class Reload:
    """Reads the TLS files again at SIGHUP; what cannot be used is said and changes nothing."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        try:
            await self._keyring.reload_tls()
        except RotationError as error:
            sys.stderr.write(f"visa_direct: {error}; the certificates before go on\n")


def _settings(arguments: Sequence[str] | None) -> Settings:
    given = _parser().parse_args(arguments)
    return Settings(
        state_directory=given.state_dir,
        port=given.port,
        admin_port=given.admin_port,
        latency_seconds=given.latency_ms / 1000,
        query_lag_seconds=given.query_lag_ms / 1000,
        query_amount_after_seconds=given.query_amount_after_seconds,
        query_no_match=given.query_no_match,
        accepted_body=given.accepted_body,
        accepted_headers=given.accepted_headers,
        accounts_pace_seconds=given.accounts_pace_ms / 1000,
        mle_error_code=given.mle_error_code,
        acquirers=dict(given.acquirer or ENROLLED),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.visa_direct",
        description="A stand-in for Visa Direct on 127.0.0.1, with a durable ledger of its own.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state-dir", type=Path, required=True, help="everything durable lives here")
    parser.add_argument("--port", type=_port, default=0, help="HTTPS port; 0 takes a free one (default)")
    parser.add_argument("--admin-port", type=_port, default=0, help="plain HTTP port for tools; 0 as above")
    parser.add_argument("--latency-ms", type=_not_negative, default=0.0, help="how long every push and reversal takes")
    parser.add_argument(
        "--query-lag-ms", type=_not_negative, default=0.0, help="how long the query does not see a transaction"
    )
    parser.add_argument(
        "--query-amount-after-seconds",
        type=_not_negative,
        default=0.0,
        help="how long query rows lack their amount (Visa: up to 7200)",
    )
    parser.add_argument(
        "--query-no-match", choices=("empty", "404"), default="empty", help="what a query without result gives"
    )
    parser.add_argument(
        "--accepted-body", choices=("json", "text"), default="json", help="the form of a 202: object or bare text"
    )
    parser.add_argument(
        "--accepted-headers",
        choices=("none", "location", "link"),
        default="none",
        help="what else a 202 says about its status URL",
    )
    parser.add_argument(
        "--accounts-pace-ms",
        type=_not_negative,
        default=500.0,
        help="how long an account payout stays in each status",
    )
    parser.add_argument(
        "--acquirer",
        action="append",
        type=_acquirer,
        metavar="BIN:COUNTRY",
        help="an acquiring BIN of this project and its numeric country; may be repeated (408999:840)",
    )
    parser.add_argument("--mle-error-code", default="9125", help="code of the 400 for a stale or undecryptable JWE")
    return parser


def _acquirer(text: str) -> tuple[str, str]:
    acquiring_bin, _, country = text.partition(":")
    if not (acquiring_bin.isdigit() and 6 <= len(acquiring_bin) <= 11 and country.isdigit() and len(country) == 3):
        raise argparse.ArgumentTypeError("must be a BIN of 6 to 11 digits and a country of 3, as in 408999:840")
    return acquiring_bin, country


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return port


def _not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 86_400_000:
        raise argparse.ArgumentTypeError("must be between 0 and one day")
    return number


if __name__ == "__main__":
    sys.exit(main())
