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
from sandbox.visa_direct.server import StartError, running
from sandbox.visa_direct.settings import Settings

_EXAMPLES = """\
examples:
  python -m sandbox.visa_direct --port 0 --state-dir /tmp/visa
  python -m sandbox.visa_direct --port 9443 --admin-port 9480 --state-dir /tmp/visa --latency-ms 50
  curl -s "$(jq -r .admin_url /tmp/visa/endpoint.json)/sandbox/ledger?after=0&limit=10"
  curl -s -X PUT "$(jq -r .admin_url /tmp/visa/endpoint.json)/sandbox/faults" \\
       -d '{"seed": 7, "rules": [{"operation": "push", "fault": "effect_then_silence", "probability": 0.01}]}'

A client finds certificates, keys and credentials.json in <state-dir>/credentials/client. The ledger, the fault
plan and work answered with 202 survive a kill; start again with the same --state-dir and ports to go on.
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
        sys.stderr.write(
            f"visa_direct: {endpoint.base_url} (admin {endpoint.admin_url}, state {settings.state_directory})\n"
        )
        sys.stderr.flush()
        await stopped.wait()


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
        mle_error_code=given.mle_error_code,
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
    parser.add_argument("--mle-error-code", default="9125", help="code of the 400 for a stale or undecryptable JWE")
    return parser


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
