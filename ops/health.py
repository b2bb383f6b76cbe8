"""`payouts health`: are all workers ready, and if one is not, which part keeps it from working? (requirement S3-30)

Each worker's own page is asked, all at once and for a bounded time. A host name with several addresses, such as that of
a headless Service in Kubernetes, means every one of them.
"""

import asyncio
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import httpx
import typer

from ops.application import ending
from ops.asynchronous import run
from ops.exit_codes import ExitCode
from ops.failures import unreachable, usage_error
from ops.options import OutputOption
from ops.output import Column, Output, emit_rows, message
from ops.redaction import redacted
from streams.settings import load_settings

PATH: Final = "/health/detailed"
TIMEOUT_SECONDS: Final = 5.0
"""A page answers within two, whatever it asks about."""
WORKERS_MAX: Final = 500
AT_ONCE_MAX: Final = 32
PAGE_BYTES_MAX: Final = 262_144

COLUMNS: Final = (
    Column("worker", "WORKER"),
    Column("address", "ADDRESS"),
    Column("ready", "READY"),
    Column("mode", "MODE"),
    Column("partitions", "PARTITIONS", right=True),
    Column("why", "WHY NOT"),
)


@dataclass(frozen=True, slots=True)
class Page:
    """Where one worker answers."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """As people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "health",
        epilog=ending(
            "payouts health",
            "payouts health worker-1:6066 worker-2:6066 --output json",
            "payouts health payout-streams-workers:6066",
            codes=(ExitCode.FOUND, ExitCode.UNREACHABLE),
        ),
    )(health)


def health(
    addresses: Annotated[
        list[str] | None, typer.Argument(metavar="[HOST[:PORT]]...", help="Workers; the one of these settings if none.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=60.0, help="Wait so many seconds for each page.")
    ] = TIMEOUT_SECONDS,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask every worker's health page whether it is ready, and show what keeps it from working.

    A name that stands for several addresses is asked at each. Changes nothing. Ends with 1 if one is not ready or does
    not answer, with 6 if none answers.
    """
    settings = load_settings()
    port = settings.payouts_http_port
    given = addresses or [f"127.0.0.1:{port}"]
    rows = run(_asked([_parsed(text, port) for text in given], timeout))
    emit_rows(rows, COLUMNS, output)
    answered = [row for row in rows if row["answered"]]
    if not answered:
        raise unreachable(
            "no worker answers",
            why=str(rows[0]["why"]),
            next_step="do workers run? PAYOUTS_HTTP_HOST, PAYOUTS_HTTP_PORT",
        )
    not_ready = [row for row in rows if not row["ready"]]
    if not_ready:
        message(f"{len(not_ready)} of {len(rows)} are not ready.")
        raise typer.Exit(ExitCode.FOUND)


def _parsed(text: str, default_port: int) -> Page:
    """Raises CommandFailed (usage)."""
    wrong = usage_error(
        "an address cannot be understood", next_step="give HOST or HOST:PORT, for example worker-1:6066"
    )
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port or default_port
    except ValueError:
        raise wrong from None
    if not host or parts.path or parts.query or parts.username is not None:
        raise wrong
    return Page(host, port)


async def _asked(named: Sequence[Page], timeout_seconds: float) -> list[dict[str, Any]]:
    """One row a worker, in the order given, those of a name in the order of their addresses. Raises CommandFailed."""
    pages: list[Page] = []
    for page in named:
        pages += [one for one in await _every(page) if one not in pages]
    if len(pages) > WORKERS_MAX:
        raise usage_error(f"more than {WORKERS_MAX} addresses", next_step="give fewer names")
    places = asyncio.Semaphore(AT_ONCE_MAX)
    # Neither proxies nor anything else of the environment: a worker is beside us.
    async with httpx.AsyncClient(timeout=timeout_seconds, trust_env=False) as client:

        async def ask(page: Page) -> dict[str, Any]:
            async with places:
                return await _row(client, page, timeout_seconds)

        return list(await asyncio.gather(*(ask(page) for page in pages)))


async def _every(page: Page) -> list[Page]:
    """The addresses of a name; the name itself where it has none, which its own line then says."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(page.host, page.port, type=socket.SOCK_STREAM)
    except OSError:
        return [page]
    # Of one family: a worker listens on one of the two, by default the older, and would be missed on the other.
    families = {family for family, *_ in found}
    chosen = socket.AF_INET if socket.AF_INET in families else found[0][0]
    hosts = {str(address[0]) for family, *_, address in found if family == chosen}
    return [Page(host, page.port) for host in sorted(hosts)]


async def _row(client: httpx.AsyncClient, page: Page, timeout_seconds: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(timeout_seconds):
            found = json.loads(await _body(client, f"http://{page.address}{PATH}"))
    except (httpx.HTTPError, TimeoutError, ValueError, OSError) as error:
        return _silent(page, type(error).__name__)
    if not isinstance(found, dict) or not isinstance(found.get("checks"), dict):
        return _silent(page, "what answers is no worker")
    return row_of(page, found)


async def _body(client: httpx.AsyncClient, url: str) -> bytes:
    """What is answered, as far as a page may go. Raises httpx.HTTPError."""
    body = b""
    async with client.stream("GET", url) as answer:
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > PAGE_BYTES_MAX:
                return b""
    return body


def _silent(page: Page, why: str) -> dict[str, Any]:
    return {"worker": None, "address": page.address, "answered": False, "ready": False, "why": f"no answer: {why}"}


def row_of(page: Page, found: dict[str, Any]) -> dict[str, Any]:
    """What a worker's page says, in one line. Pure."""
    wrong = {name: redacted(str(said)) for name, said in found["checks"].items() if said != "ok"}
    if (pulse := found.get("liveness") or {}).get("status") == "hanging":
        wrong["liveness"] = redacted(", ".join(map(str, pulse.get("why", []))))
    mode, assigned = found.get("mode"), found.get("assigned_partitions")
    return {
        "worker": found.get("worker"),
        "address": page.address,
        "answered": True,
        "ready": found.get("status") == "ok" and not wrong,
        "mode": mode.get("obeyed") if isinstance(mode, dict) else mode,
        "partitions": len(assigned) if isinstance(assigned, list) else None,
        "why": "; ".join(f"{name}: {said}" for name, said in wrong.items()) or None,
        "checks": {name: redacted(str(said)) for name, said in found["checks"].items()},
        "versions": {name: found[name] for name in ("version", "policies") if name in found},
    }
