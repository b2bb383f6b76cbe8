"""Keeps a worker's connection to Visa current: new files, orders of operators, keys from their address.

What makes a worker read certificates and keys again (requirement S0-05):

    payouts certs reload      an order in the database, seen by every worker within `ORDERS_EVERY_SECONDS`
    SIGHUP                    this worker alone
    a file was replaced       when all of them have stood still for a moment: two files are never replaced at once

Settings are read again with them, those of `PAYOUTS_SETTINGS_FILE` included, so that key ids can change, too. New
material is checked, probed, taken, verified and undone if it fails (`streams.visa_client`): no payout fails for it.

With `VISA_JWKS_URL` this also keeps Visa's key. While there is none that may be used, every kind of call waits
(`paused_for` `keys:…`), and nobody's budget is spent (rules K5, S7; S0-13).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ledger.interface import LedgerError
from ledger.visa_orders import Action, Order, Orders
from processors.visa.breaker import Breaker
from processors.visa.exchange import Answered, BodyProblem, Exchange, FailureCause
from processors.visa.jwks import JwksKeys, KeysUnavailable, KeyUnknown
from processors.visa.transport import VisaConnection, VisaDirectClient
from streams.clock import Clock
from streams.metrics import Metrics
from streams.settings import Settings, SettingsInvalid
from streams.visa_client import ClientSource, Reload, ReloadResult, VisaClient, probe_of
from streams.visa_files import Stamp, stamp_of
from streams.visa_material import Material, MaterialUnusable, load_material, watched_paths
from streams.visa_pause import VisaPauses

log = logging.getLogger(__name__)

ORDERS_EVERY_SECONDS = 2.0
"""How soon an order reaches a worker; one small read of the database."""
REPORT_EVERY_SECONDS = 15.0
"""How often a worker says that it lives and what it has in use."""
SEEN_WITHIN_SECONDS = 3 * REPORT_EVERY_SECONDS
"""A worker that was silent for longer is not waited for."""
KEYS_EVERY_SECONDS = 1.0
"""How often the key is looked at, which asks nobody anything while it is fresh."""
WHY_CHARACTERS_MAX = 500
ENCRYPTIONS_KEPT = 8
"""With which calls may still be under way: more exchanges than anybody makes within the 35 s of a call."""
TRY_AGAIN_SECONDS = 60.0
"""New files that were not taken, because Visa was away for example, are tried again until they are replaced."""


@dataclass(frozen=True, slots=True)
class InUse:
    """What the source sends with, as far as it may be shown."""

    material: Material
    since: datetime


class VisaKeeper:
    """One worker's. Everything happens in one task, one thing after the other."""

    def __init__(
        self,
        source: ClientSource,
        material: Material,
        *,
        worker: str,
        orders: Orders,
        load_settings: Callable[[], Settings],
        settings_file: str | None,
        pauses: VisaPauses,
        metrics: Metrics,
        clock: Clock,
        keys: JwksKeys | None = None,
        breaker: Breaker | None = None,
        connect: Callable[[VisaConnection], VisaClient] = VisaDirectClient,
        seconds: Callable[[], float] = time.monotonic,
        may_connect: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_connect`: whether the mode lets a worker connect to Visa (L9); until then orders and files wait."""
        self._may_connect = may_connect
        self._source = source
        self._in_use = InUse(material, clock())
        self._before: InUse | None = None
        self._encryptions = deque([material.encryption], maxlen=ENCRYPTIONS_KEPT)
        self._worker = worker
        self._orders = orders
        self._load_settings = load_settings
        self._settings_file = settings_file
        self._pauses = pauses
        self._metrics = metrics
        self._clock = clock
        self._keys = keys
        self._breaker = breaker
        self._connect = connect
        self._seconds = seconds
        self._asked = asyncio.Event()
        self._done: int | None = None
        """The last order that was done here; None before the first look."""
        self._last: Reload | None = None
        self._reported_at: float | None = None
        self._watched = (*material.stamp, *stamp_of([Path(settings_file)] if settings_file else []))
        """The files as they were when they were last read."""
        self._changed: Stamp | None = None
        self._try_again_at: float | None = None
        self._replacing = False
        if keys is not None:
            pauses.shut("keys:NOT_FETCHED", why="the key set has not been fetched yet")
        self._show()

    def ask_to_reload(self) -> None:
        """SIGHUP: at the next turn."""
        self._asked.set()

    @property
    def expiries(self) -> Mapping[str, datetime]:
        """Until when each certificate in use is valid."""
        return self._in_use.material.expiries

    @property
    def detail(self) -> dict[str, Any]:
        """For the health page and the database: what is in use. No secret."""
        shown = {
            **self._in_use.material.facts,
            "since": self._in_use.since.isoformat(),
            "can_roll_back": self._source.can_roll_back,
            "last": None if self._last is None else self._last.result.value,
        }
        if self._breaker is not None:
            shown["breakers"] = {self._breaker.name: self._breaker.state.value}
        return shown

    async def keep_forever(self) -> None:
        """Until cancelled."""
        while True:
            await self.turn()
            if self._asked.is_set():  # the mode keeps it waiting
                await asyncio.sleep(ORDERS_EVERY_SECONDS)
                continue
            try:
                async with asyncio.timeout(ORDERS_EVERY_SECONDS):
                    await self._asked.wait()
            except TimeoutError:
                continue

    async def keep_keys_forever(self) -> None:
        """The same for the key from its address, if there is one. Until cancelled."""
        while self._keys is not None:
            await self.look_at_keys()
            await asyncio.sleep(KEYS_EVERY_SECONDS)
        await asyncio.Event().wait()

    async def turn(self) -> None:
        """Do what is asked for by signal, file or order, and report."""
        self._show()
        may_connect = self._may_connect()
        if may_connect and self._asked.is_set():
            self._asked.clear()
            await self.reload("a signal")
        elif may_connect and self._is_time_to_read_files():
            await self.reload("a replaced file")
        try:
            if may_connect:
                await self._do_orders()
            await self._report_now_and_then()
        except LedgerError as error:
            log.warning("orders not read or answered", extra={"error": type(error).__name__})

    async def reload(self, why: str) -> Reload:
        """Read everything again and use it if it works; what was in use goes on otherwise."""
        log.info("transport.reload.started", extra={"why": why})
        self._try_again_at = None
        try:
            done = await self._reload()
        except (MaterialUnusable, SettingsInvalid) as error:
            done = Reload(ReloadResult.FAILURE, str(error)[:WHY_CHARACTERS_MAX])
        except Exception as error:
            log.exception("new certificates or keys could not be read")
            done = Reload(ReloadResult.FAILURE, f"they could not be read: {type(error).__name__}")
        if done.result is ReloadResult.FAILURE:
            self._try_again_at = self._seconds() + TRY_AGAIN_SECONDS
        self._finish(done)
        return done

    async def roll_back(self) -> Reload:
        """What was in use before is in use again. The files are not touched."""
        done = await self._source.roll_back()
        if done.result is ReloadResult.ROLLED_BACK:
            self._returned()
        self._finish(done)
        return done

    def returned(self, why: str) -> None:
        """The source went back by itself."""
        if self._replacing:
            return  # `replace` says so, too
        self._returned()
        self._finish(Reload(ReloadResult.ROLLED_BACK, why))

    def saw(self, exchange: Exchange) -> None:
        """Count what encryption failed, call by call."""
        if isinstance(exchange, Answered):
            if exchange.body_problem == BodyProblem.UNDECRYPTABLE:
                self._metrics.jwe_decrypt_failures.inc()
        elif exchange.cause == FailureCause.ENCRYPTION_FAILED:
            self._metrics.jwe_encrypt_failures.inc()

    async def look_at_keys(self) -> None:
        """Use the key that the address has for us; without one, no call leaves."""
        if self._keys is None or not self._may_connect():
            return
        encryption = self._in_use.material.encryption
        try:
            key = await self._keys.get(encryption.key_id)
        except KeysUnavailable as error:
            encryption.encrypt_to(None)
            reason = "KEY_UNKNOWN" if isinstance(error, KeyUnknown) else "UNAVAILABLE"
            self._pauses.shut(f"keys:{reason}", why=str(error))
        else:
            encryption.encrypt_to(key)
            self._pauses.reopen()
        if self._breaker is not None:
            self._breaker.show()
        self._show()

    async def leave(self) -> None:
        """The worker stops: no operator waits for it."""
        try:
            await self._orders.leave(self._worker)
        except LedgerError:
            log.info("the database is not told that this worker leaves")

    async def _reload(self) -> Reload:
        settings = self._load_settings()
        if (settings.visa_jwks_url is None) is not (self._keys is None):
            raise MaterialUnusable("from a file to VISA_JWKS_URL, or back, takes a restart of the worker")
        old = self._in_use
        self._watched, self._changed = stamp_of(watched_paths(settings, self._settings_file)), None
        retired = old.material.encryption
        material = await asyncio.to_thread(load_material, settings, self._clock(), retired=retired)
        if material.digest == old.material.digest:
            if self._keys is not None:
                await self._bring_key(old.material, self._keys)
            return Reload(ReloadResult.UNCHANGED, "the files and settings are those in use")
        if self._keys is not None:
            await self._bring_key(material, self._keys)
        client = self._connect(material.connection)
        if stamp_of([Path(path) for path, *_ in material.stamp]) != material.stamp:
            await client.aclose()
            return Reload(ReloadResult.FAILURE, "a file was replaced while it was read")
        for earlier in self._encryptions:
            earlier.open_also(material.encryption)
        self._encryptions.append(material.encryption)
        self._replacing = True
        try:
            done = await self._source.replace(client, probe_of(settings.visa_acquiring_bin))
        finally:
            self._replacing = False
        if done.result is ReloadResult.SUCCESS:
            self._before, self._in_use = old, InUse(material, self._clock())
        elif done.result is ReloadResult.ROLLED_BACK:
            self._before = None
        return done

    async def _bring_key(self, material: Material, keys: JwksKeys) -> None:
        try:
            await keys.renew()
            material.encryption.encrypt_to(await keys.get(material.encryption.key_id))
        except KeysUnavailable as error:
            raise MaterialUnusable(str(error)) from None

    def _returned(self) -> None:
        if self._before is not None:
            self._in_use, self._before = InUse(self._before.material, self._clock()), None

    def _finish(self, done: Reload) -> None:
        self._last = done
        self._reported_at = None  # whoever looks at the workers sees it at the next turn
        self._metrics.reloads.labels(done.result.value).inc()
        well = done.result in (ReloadResult.SUCCESS, ReloadResult.UNCHANGED)
        level = logging.INFO if well else logging.ERROR
        log.log(level, f"transport.reload.{done.result.value}", extra={"why": done.why})
        self._show()

    def _is_time_to_read_files(self) -> bool:
        """Whether a file was replaced and nothing has changed since the last look, or it is time to try again."""
        now = stamp_of([Path(path) for path, *_ in self._watched])
        if now != self._watched:
            settled, self._changed = now == self._changed, now
            return settled
        self._changed = None
        return self._try_again_at is not None and self._seconds() >= self._try_again_at

    async def _do_orders(self) -> None:
        if self._done is None:
            # What was ordered before this worker started is in the files that it has just read.
            self._done = await self._orders.newest()
            await self._report()
            return
        orders = await self._orders.since(self._done)
        if not orders and await self._orders.newest() < self._done:
            self._done = await self._orders.newest()  # another database was adopted: its numbers count from here
        for order in orders:
            self._last = await self._do(order)
            self._done = order.number
            await self._report()

    async def _do(self, order: Order) -> Reload:
        log.warning("ordered", extra={"action": order.action, "order": order.number})
        match order.action:
            case Action.RELOAD:
                return await self.reload("an order")
            case Action.ROLLBACK:
                return await self.roll_back()
            case Action.BREAKER_RESET:
                return await self._reset_breaker()
            case _:
                return Reload(ReloadResult.FAILURE, "this worker's release does not know this order")

    async def _reset_breaker(self) -> Reload:
        if self._breaker is None or self._keys is None:
            return Reload(ReloadResult.UNCHANGED, "this worker has keys from files: there is no breaker")
        self._breaker.reset()
        await self.look_at_keys()
        return Reload(ReloadResult.SUCCESS, f"the breaker is {self._breaker.state.value}")

    async def _report_now_and_then(self) -> None:
        now = self._seconds()
        if self._reported_at is None or now - self._reported_at >= REPORT_EVERY_SECONDS:
            await self._report()

    async def _report(self) -> None:
        result, why = (None, None) if self._last is None else (self._last.result.value, self._last.why)
        await self._orders.report(self._worker, self._done or 0, result, why, self.detail)
        self._reported_at = self._seconds()

    def _show(self) -> None:
        for name, until in self._in_use.material.expiries.items():
            self._metrics.certificate_expiry.labels(name).set(until.timestamp())
