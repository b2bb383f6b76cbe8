"""Lets new work wait until the database is known to be the one that published what `payout_audit` holds (rule L11).

The ledger itself begins nothing on a server that was not looked at; this looks, says what it found, and closes the gate
meanwhile. It looks when the worker starts, and whenever another server, or the same one started anew, answers. A
database that is not ours stays closed until `payouts ledger adopt`, which it notices by itself.
"""

import asyncio
import logging

from ledger.guard import Verdict
from ledger.interface import LedgerError
from ledger.seals import Seals
from schemas.codec import RegistryUnavailable, SchemaNotRegistered
from streams.audit_topic import LastPublished
from streams.away import what_is_away
from streams.gate import Gate
from streams.holes import Unreadable
from streams.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.25
"""How soon another server is noticed, by a comparison in memory. Until then nothing can begin on it anyway."""
LOOK_AGAIN_SECONDS = 15.0
"""A trusted database is compared again as often as this: another one may have been adopted in its place meanwhile."""
REFUSED_EVERY_SECONDS = 2.0
"""How soon an adoption is noticed."""
TELL_EVERY_SECONDS = 60.0
"""A refused database is an error in the log as often as this: somebody must come."""
REASON = "ledger"


class LedgerGuard:
    """Holds the gate closed for `ledger:<verdict>` while the database is not known."""

    def __init__(self, seals: Seals, last_published: LastPublished, gate: Gate, metrics: Metrics) -> None:
        self._seals = seals
        self._last_published = last_published
        self._gate = gate
        self._metrics = metrics
        self._closed_for: str | None = None
        self._away: str | None = None
        """What could not be asked, beside the verdict that is missing for it: an operator looks there first."""
        self._told_at = -TELL_EVERY_SECONDS
        self._looked_at = 0.0
        self.verdict = Verdict.NOT_LOOKED_AT

    async def watch_forever(self) -> None:
        """Look whenever it is needed, until cancelled."""
        while True:
            if not self._seals.is_trusted or _now() - self._looked_at >= LOOK_AGAIN_SECONDS:
                await self.look()
            refused = self.verdict not in (Verdict.KNOWN, Verdict.NOT_LOOKED_AT)
            await asyncio.sleep(REFUSED_EVERY_SECONDS if refused else LOOK_EVERY_SECONDS)

    async def look(self) -> None:
        """Compare once. What is away leaves the gate closed: whether this is our database is not known (K5)."""
        if self._closed_for is None and not self._seals.is_trusted:
            self._close(Verdict.NOT_LOOKED_AT)
        try:
            # In this order: what the topic holds was sealed before, so that our database is never behind by chance; and
            # it is read after the server has come, so that nothing older than what a copy lost is compared with it.
            incarnation = await self._seals.incarnation()
            published = await self._last_published()
            verdict, standing = await self._seals.examine(published, incarnation=incarnation)
        except (LedgerError, Unreadable, RegistryUnavailable, SchemaNotRegistered) as error:
            log.warning(
                "the database was not compared with the audit",
                extra={"error": type(error).__name__, "why": str(error) if isinstance(error, Unreadable) else None},
            )
            if not self._seals.is_trusted:
                self._close(Verdict.NOT_LOOKED_AT)
                self._wait_for(what_is_away(error))
            return
        self._wait_for(None)
        self._looked_at = _now()
        if verdict is Verdict.KNOWN:
            self._open()
        elif verdict is Verdict.NOT_LOOKED_AT:
            self._close(verdict)
        else:
            self._close(verdict)
            self._tell(verdict, standing.head.sequence, published.head.sequence if published else 0)

    def close(self) -> None:
        """As before the first look: nothing starts."""
        self._close(Verdict.NOT_LOOKED_AT)

    def _close(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self._metrics.ledger_verified.set(0)
        reason = f"{REASON}:{verdict.value}"
        if reason == self._closed_for:
            return
        self._gate.close(reason)
        if self._closed_for is not None:
            self._gate.open(self._closed_for)
        self._closed_for = reason

    def _wait_for(self, away: str | None) -> None:
        """Name what is away for as long as it is."""
        if away == self._away:
            return
        if away is not None:
            self._gate.close(away)
        if self._away is not None:
            self._gate.open(self._away)
        self._away = away

    def _open(self) -> None:
        if self.verdict is not Verdict.KNOWN:
            log.info("the database is the one that we know")
        self.verdict = Verdict.KNOWN
        self._metrics.ledger_verified.set(1)
        if self._closed_for is not None:
            self._gate.open(self._closed_for)
            self._closed_for = None

    def _tell(self, verdict: Verdict, sealed: int, published: int) -> None:
        now = _now()
        if now - self._told_at < TELL_EVERY_SECONDS:
            return
        self._told_at = now
        log.critical(
            "this database is not the one that we know: no call leaves until `payouts ledger adopt` (runbook)",
            extra={"verdict": verdict.value, "sealed": sealed, "published": published},
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
