"""S0-05, S0-06, S0-10, S0-13, S1-08: what makes a worker use new material, and what becomes of it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jwcrypto import jwk
from prometheus_client import generate_latest

from ledger.interface import LedgerUnavailable
from ledger.visa_orders import Action, Order
from processors.payout.events import CallKind
from processors.visa.breaker import Breaker, BreakerState
from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered, BodyProblem, Exchange, Failed, FailureCause
from processors.visa.jwks import JwksKeys
from processors.visa.mle import MleError
from processors.visa.requests import VisaRequest, push_funds_again
from processors.visa.transport import VisaConnection
from streams.metrics import Metrics
from streams.settings import Settings, SettingsInvalid
from streams.visa_client import ClientSource
from streams.visa_jwks import BREAKER, state_shown
from streams.visa_keeper import REPORT_EVERY_SECONDS, TRY_AGAIN_SECONDS, VisaKeeper
from streams.visa_material import material_in_use
from streams.visa_pause import VisaPauses
from tests.unit.streams.visa_files_bench import Files
from tests.unit.visa.visa_testbed import MlePair, mle_pair

PUSH = push_funds_again(b'{"amount":1}', payout_id="payout-1", correlation_id="corr-1")


class Orders:
    """The database's side of orders, in memory; may be away."""

    def __init__(self) -> None:
        self.given: list[Order] = []
        self.reports: list[tuple[int, str | None, str | None, Mapping[str, Any]]] = []
        self.left: list[str] = []
        self.is_away = False

    def give(self, action: str) -> int:
        number = len(self.given) + 1
        self.given.append(Order(number, action, "maria", "because"))
        return number

    async def newest(self) -> int:
        self._look()
        return len(self.given)

    async def since(self, number: int) -> Sequence[Order]:
        self._look()
        return [order for order in self.given if order.number > number]

    async def report(
        self, worker: str, number: int, result: str | None, why: str | None, facts: Mapping[str, Any]
    ) -> None:
        self._look()
        assert worker == "worker-1"
        self.reports.append((number, result, why, json.loads(json.dumps(facts))))

    async def leave(self, worker: str) -> None:
        self._look()
        self.left.append(worker)

    def _look(self) -> None:
        if self.is_away:
            raise LedgerUnavailable("away")


class Bench:
    """One worker's keeper over played connections."""

    def __init__(self, files: Files, settings: Settings, **keeper: Any) -> None:
        self.files = files
        self.settings: Settings | Exception = settings
        self.orders = Orders()
        self.metrics = Metrics()
        self.pauses = VisaPauses(after_failures=8, probe_max_seconds=30.0, clock=lambda: self.now, metrics=self.metrics)
        self.now = 1000.0
        self.answer: Exchange = Answered(200, body={"actionCode": "00"})
        self.connected: list[VisaConnection] = []
        self.closed: list[VisaConnection] = []
        self.pushed: list[VisaConnection] = []
        material = material_in_use(settings, datetime.now(UTC))
        self.source = ClientSource(self.connect(material.connection), on_exchange=self.saw, on_returned=self.returned)
        self.keeper = VisaKeeper(
            self.source,
            material,
            worker="worker-1",
            orders=self.orders,
            load_settings=self.load_settings,
            settings_file=None,
            pauses=self.pauses,
            metrics=self.metrics,
            clock=lambda: datetime.now(UTC),
            connect=self.connect,
            seconds=lambda: self.now,
            **keeper,
        )

    def load_settings(self) -> Settings:
        if isinstance(self.settings, Exception):
            raise self.settings
        return self.settings

    def saw(self, exchange: Exchange) -> None:
        self.keeper.saw(exchange)

    def returned(self, why: str) -> None:
        self.keeper.returned(why)

    def connect(self, connection: VisaConnection) -> "PlayedClient":
        self.connected.append(connection)
        return PlayedClient(self, connection)

    async def push(self) -> Exchange:
        return await self.source.send(PUSH, Deadline.after(10.0))

    def result(self) -> tuple[int, str | None]:
        number, result, _, _ = self.orders.reports[-1]
        return number, result

    def in_use(self) -> tuple[str | None, str]:
        return self.keeper.detail["certificate_sha256"], self.keeper.detail["mle_key_id"]

    def shown(self, series: str) -> float | None:
        for line in generate_latest(self.metrics.registry).decode().splitlines():
            if line.startswith(series + " "):
                return float(line.rpartition(" ")[2])
        return None


class PlayedClient:
    """Greets and answers well, unless the bench's answer says otherwise for what moves money."""

    def __init__(self, bench: Bench, connection: VisaConnection) -> None:
        self.bench = bench
        self.connection = connection
        self.greeting: Exchange = Answered(200)

    async def send(self, request: VisaRequest, deadline: Deadline) -> Exchange:
        assert deadline.remaining_seconds() > 0
        await asyncio.sleep(0)
        if request.body is None:
            return GREETINGS.pop(0) if GREETINGS else self.greeting
        encryption = self.connection.encryption
        assert encryption is not None
        try:
            encryption.encrypt(request.body)
        except MleError:
            return Failed(False, FailureCause.ENCRYPTION_FAILED)
        self.bench.pushed.append(self.connection)
        return self.bench.answer

    async def aclose(self) -> None:
        self.bench.closed.append(self.connection)


GREETINGS: list[Exchange] = []
"""What the next probes hear, in order; well when it is empty."""


@pytest.fixture(scope="module")
def mle() -> dict[str, MlePair]:
    return {name: mle_pair() for name in ("server", "old", "new")}


@pytest.fixture
def files(tmp_path: Path, mle: dict[str, MlePair]) -> Files:
    GREETINGS.clear()
    return Files(tmp_path, mle)


@pytest.fixture
async def bench(files: Files) -> Bench:
    made = Bench(files, files.settings())
    await made.keeper.turn()
    return made


def rotated(files: Files) -> Settings:
    """New client certificate, new key id with the old one still opened, as a settings file would say."""
    files.new_client("client-2")
    return files.settings(visa_mle_key_id="new", visa_mle_private_key_path=files.path("new.key"))


async def test_an_order_is_done_by_every_worker_that_reads_it_and_answered(bench: Bench) -> None:
    """S0-05, S0-06: certificate and key id are new; the answer names the order, and its end is counted."""
    before = bench.in_use()
    bench.settings = rotated(bench.files)
    number = bench.orders.give(Action.RELOAD)
    await bench.keeper.turn()
    assert bench.result() == (number, "success")
    facts = bench.orders.reports[-1][3]
    assert facts["mle_key_id"] == "new"
    assert facts["decrypts_with"] == ["new", "old"], "answers to calls under way still name the old one"
    assert facts["can_roll_back"] is True
    assert bench.in_use()[0] != before[0]
    assert bench.shown('visa_transport_reload_total{result="success"}') == 1.0
    assert await bench.push() == bench.answer
    assert bench.pushed == [bench.connected[1]]
    assert "secret" not in json.dumps(bench.orders.reports)


async def test_what_was_ordered_before_the_start_is_in_the_files_already(files: Files) -> None:
    """S0-05: a worker that starts after an order does not do it again."""
    bench = Bench(files, files.settings())
    number = bench.orders.give(Action.RELOAD)
    await bench.keeper.turn()
    assert bench.result() == (number, None)
    assert len(bench.connected) == 1


async def test_orders_are_done_in_their_order_and_one_step_back_is_ordered_too(bench: Bench) -> None:
    """S0-06, S1-08: `certs rollback` uses what was used before, without a file."""
    before = bench.in_use()
    bench.settings = rotated(bench.files)
    bench.orders.give(Action.RELOAD)
    bench.orders.give(Action.ROLLBACK)
    await bench.keeper.turn()
    assert [report[:2] for report in bench.orders.reports[-2:]] == [(1, "success"), (2, "rolled_back")]
    assert bench.in_use() == before
    assert await bench.push() == bench.answer
    assert bench.pushed == [bench.connected[0]]
    bench.orders.give(Action.ROLLBACK)
    await bench.keeper.turn()
    assert bench.result() == (3, "failure")


async def test_files_that_cannot_be_used_leave_everything_as_it_is(bench: Bench) -> None:
    """S0-04, S1-08: readable by others, unreadable settings, or refused by Visa."""
    before = bench.in_use()
    bench.files.new_client("client-2")
    bench.files.path("client.key").chmod(0o644)
    GREETINGS[:] = []
    for problem in ("others than its owner", "not usable", "HTTP 401"):
        bench.orders.give(Action.RELOAD)
        await bench.keeper.turn()
        number, result, why, _ = bench.orders.reports[-1]
        assert (number, result) == (len(bench.orders.given), "failure")
        assert problem in str(why)
        assert bench.in_use() == before
        assert await bench.push() == bench.answer
        bench.files.path("client.key").chmod(0o600)
        usable = bench.files.settings()
        bench.settings = SettingsInvalid("not usable") if problem != "not usable" else usable
        if problem == "not usable":
            GREETINGS[:] = [Answered(401)]
    assert set(map(id, bench.pushed)) == {id(bench.connected[0])}
    assert bench.shown('visa_transport_reload_total{result="failure"}') == 3.0


async def test_another_kind_of_key_source_is_not_taken_without_a_restart(bench: Bench) -> None:
    """S1-08: nobody would bring the key, and every call would be refused for it."""
    bench.settings = bench.files.settings(
        visa_mle_server_certificate_path=None, visa_jwks_url="https://visa.invalid/.well-known/jwks"
    )
    bench.orders.give(Action.RELOAD)
    await bench.keeper.turn()
    assert bench.result() == (1, "failure")
    assert "restart" in str(bench.orders.reports[-1][2])
    assert await bench.push() == bench.answer


async def test_a_failed_verification_is_told_as_rolled_back(bench: Bench) -> None:
    """S0-06: taken, and not well: undone at once, and counted under its name."""
    before = bench.in_use()
    bench.settings = rotated(bench.files)
    GREETINGS[:] = [Answered(200), Answered(404), Answered(403)]
    bench.orders.give(Action.RELOAD)
    await bench.keeper.turn()
    assert bench.result() == (1, "rolled_back")
    assert (bench.in_use(), bench.keeper.detail["can_roll_back"]) == (before, False)
    assert bench.shown('visa_transport_reload_total{result="rolled_back"}') == 1.0


async def test_a_first_call_that_is_refused_brings_the_old_material_back_and_is_told(bench: Bench) -> None:
    """S0-06: what no probe shows; the operator sees it at his next look."""
    before = bench.in_use()
    bench.settings = rotated(bench.files)
    bench.orders.give(Action.RELOAD)
    await bench.keeper.turn()
    bench.answer = Answered(400, body={"responseStatus": {"code": "9125"}})
    await bench.push()
    bench.answer = Answered(200, body={"actionCode": "00"})
    assert await bench.push() == bench.answer
    assert bench.pushed == [bench.connected[1], bench.connected[0]]
    await bench.keeper.turn()
    assert bench.result() == (1, "rolled_back")
    assert bench.in_use() == before


async def test_a_signal_reloads_this_worker(bench: Bench) -> None:
    """S0-05: SIGHUP, without a database."""
    bench.orders.is_away = True
    bench.settings = rotated(bench.files)
    bench.keeper.ask_to_reload()
    await bench.keeper.turn()
    assert bench.in_use()[1] == "new"
    bench.orders.is_away = False
    await bench.keeper.turn()
    assert bench.orders.reports[-1][3]["mle_key_id"] == "new"


async def test_e5_in_isolation_no_new_connection_is_tried_and_orders_wait(files: Files) -> None:
    """E5, S3-36: neither an order, a signal nor replaced files make a socket; all of it is done afterwards."""
    open_again = False
    bench = Bench(files, files.settings(), may_connect=lambda: open_again or not bench.orders.given)
    await bench.keeper.turn()
    bench.settings = rotated(bench.files)
    number = bench.orders.give(Action.RELOAD)
    bench.keeper.ask_to_reload()
    for _ in range(3):
        await bench.keeper.turn()
    assert len(bench.connected) == 1
    assert bench.result() != (number, "success")
    open_again = True
    await bench.keeper.turn()
    assert bench.in_use()[1] == "new"
    assert bench.orders.reports[-1][0] == number


async def test_replaced_files_are_used_when_all_of_them_stand_still(bench: Bench) -> None:
    """S0-05: a certificate without its key is half of a rotation, not a failure."""
    before = bench.in_use()
    kept = {name: bench.files.path(name).read_bytes() for name in ("client.pem", "client.key")}
    bench.files.new_client("client-2")
    new = {name: bench.files.path(name).read_bytes() for name in kept}
    for name, content in kept.items():
        bench.files.write(name, content)
    await bench.keeper.turn()
    await bench.keeper.turn()
    assert bench.keeper.detail["last"] == "unchanged"
    bench.files.write("client.pem", new["client.pem"])
    await bench.keeper.turn()
    bench.files.write("client.key", new["client.key"])
    await bench.keeper.turn()
    assert bench.in_use() == before
    assert len(bench.connected) == 1
    await bench.keeper.turn()
    assert bench.in_use()[0] != before[0]
    await bench.keeper.turn()
    assert len(bench.connected) == 2, "and only once"


async def test_an_order_after_the_files_were_seen_keeps_the_way_back(bench: Bench) -> None:
    """S0-06: the same material again is no step, so that the one before stays the one before."""
    before = bench.in_use()
    bench.files.new_client("client-2")
    await bench.keeper.turn()
    await bench.keeper.turn()
    assert bench.in_use() != before
    bench.orders.give(Action.RELOAD)
    await bench.keeper.turn()
    assert bench.result() == (1, "unchanged")
    bench.orders.give(Action.ROLLBACK)
    await bench.keeper.turn()
    assert bench.in_use() == before


async def test_new_files_that_were_not_taken_are_tried_again_by_themselves(bench: Bench) -> None:
    """S0-05: Visa was away when they were replaced; nobody has to remember it."""
    before = bench.in_use()
    bench.files.new_client("client-2")
    GREETINGS[:] = [Failed(False, FailureCause.CONNECT_FAILED)]
    await bench.keeper.turn()
    await bench.keeper.turn()
    assert bench.in_use() == before
    await bench.keeper.turn()
    assert len(bench.connected) == 2
    bench.now += TRY_AGAIN_SECONDS
    await bench.keeper.turn()
    assert bench.in_use() != before


async def test_a_rollback_is_not_undone_by_the_files_it_was_ordered_against(bench: Bench) -> None:
    """S0-06: the files still hold the new material; only another replacement, signal or order reads them."""
    before = bench.in_use()
    bench.settings = rotated(bench.files)
    bench.orders.give(Action.RELOAD)
    await bench.keeper.turn()
    bench.orders.give(Action.ROLLBACK)
    for _ in range(3):
        bench.now += TRY_AGAIN_SECONDS
        await bench.keeper.turn()
    assert bench.in_use() == before


async def test_a_worker_says_now_and_then_that_it_lives_and_once_that_it_leaves(bench: Bench) -> None:
    """S0-05: an operator waits for those that live, and for nobody else."""
    said = len(bench.orders.reports)
    await bench.keeper.turn()
    assert len(bench.orders.reports) == said
    bench.now += REPORT_EVERY_SECONDS
    await bench.keeper.turn()
    assert len(bench.orders.reports) == said + 1
    await bench.keeper.leave()
    bench.orders.is_away = True
    await bench.keeper.leave()
    assert bench.orders.left == ["worker-1"]


async def test_an_order_of_a_later_release_is_refused_and_an_adopted_database_counts_from_where_it_is(
    bench: Bench,
) -> None:
    """L11, S0-05: nothing that the database says ends the keeper or makes it deaf."""
    for _ in range(3):
        bench.orders.give("dance")
    await bench.keeper.turn()
    assert bench.result() == (3, "failure")
    bench.orders.given = bench.orders.given[:1]
    await bench.keeper.turn()
    bench.settings = rotated(bench.files)
    bench.orders.give(Action.RELOAD)
    await bench.keeper.turn()
    assert bench.result() == (2, "success")


async def test_expiries_and_encryption_failures_are_measured(bench: Bench) -> None:
    """S0-07, S0-24: seconds since 1970 of what is in use; failures by their direction."""
    until = bench.shown('visa_certificate_expiry_timestamp_seconds{cert="client"}')
    bench.files.new_client("client-2", days=10.0)
    bench.keeper.ask_to_reload()
    await bench.keeper.turn()
    shorter = bench.shown('visa_certificate_expiry_timestamp_seconds{cert="client"}')
    assert until is not None
    assert shorter is not None
    assert shorter < until - 300 * 86400
    bench.keeper.saw(Answered(200, body_problem=BodyProblem.UNDECRYPTABLE))
    bench.keeper.saw(Failed(False, FailureCause.ENCRYPTION_FAILED))
    bench.keeper.saw(Answered(200))
    assert bench.shown("jwe_decrypt_fail_total") == 1.0
    assert bench.shown("jwe_encrypt_fail_total") == 1.0


# --- keys from their address --------------------------------------------------------------------------------------


class Address:
    """Publishes a key set, or is away."""

    def __init__(self, document: bytes) -> None:
        self.document: bytes | None = document
        self.asked = 0

    async def __call__(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        if self.document is None:
            raise OSError("away")
        return self.document


def key_set(pair: MlePair, *key_ids: str) -> bytes:
    public = jwk.JWK.from_pem(pair.private_pem).export_public(as_dict=True)
    return json.dumps({"keys": [{**public, "kid": key_id, "use": "enc"} for key_id in key_ids]}).encode()


class JwksBench(Bench):
    """The same with keys from an address, on the bench's clock."""

    def __init__(self, files: Files, address: Address) -> None:
        self.address = address
        self.now = 1000.0
        settings = files.settings(
            visa_mle_server_certificate_path=None, visa_jwks_url="https://visa.invalid/.well-known/jwks"
        )
        breaker = Breaker(BREAKER, clock=lambda: self.now, on_change=self._changed)
        keys = JwksKeys(address, breaker=breaker, clock=lambda: self.now)
        super().__init__(files, settings, keys=keys, breaker=breaker)
        self._show = state_shown(self.metrics)
        self.breaker = breaker

    def _changed(self, state: BreakerState, by_hand: bool) -> None:
        self._show(state, by_hand)

    async def look(self, seconds: float = 1.0) -> None:
        self.now += seconds
        await self.keeper.look_at_keys()
        for _ in range(5):
            await asyncio.sleep(0)

    def may_leave(self) -> bool:
        return all(self.pauses.lane(call).enter() is not None for call in CallKind)


@pytest.fixture
def address(mle: dict[str, MlePair]) -> Address:
    return Address(key_set(mle["server"], "old", "new"))


@pytest.fixture
async def from_address(files: Files, address: Address) -> JwksBench:
    return JwksBench(files, address)


async def test_before_the_first_key_no_call_leaves(from_address: JwksBench) -> None:
    """S0-13: a worker starts while the address is away, and waits."""
    assert not from_address.may_leave()
    assert from_address.pauses.reasons == ("keys:NOT_FETCHED",)
    assert await from_address.push() == Failed(False, FailureCause.ENCRYPTION_FAILED)
    await from_address.look()
    assert from_address.may_leave()
    assert await from_address.push() == from_address.answer


async def test_an_outage_of_ten_minutes_pauses_all_calls_and_resumes_by_itself(from_address: JwksBench) -> None:
    """S0-13, S1-06, S1-13, F-05: fresh keys go on; stale ones until the breaker opens; then everybody waits, unhurt."""
    bench = from_address
    document = bench.address.document
    await bench.look()
    bench.address.document = None
    for _ in range(590):
        await bench.look()
        assert bench.may_leave(), "keys are fresh for ten minutes"
    paused_at = None
    for second in range(600):
        await bench.look()
        if paused_at is None and not bench.may_leave():
            paused_at = second
    assert paused_at is not None
    assert paused_at < 60
    assert bench.pauses.reasons == ("keys:UNAVAILABLE",)
    assert bench.pauses.stop_payouts
    assert bench.shown('circuit_breaker_state{name="jwks",state="open"}') == 1.0
    assert bench.address.asked < 20, "the breaker leaves the address alone"
    assert await bench.push() == Failed(False, FailureCause.ENCRYPTION_FAILED), "nothing is sent in clear or stale"
    bench.address.document = document
    for _ in range(62):
        await bench.look()
    assert bench.may_leave()
    assert bench.pauses.reasons == ()
    assert bench.shown('circuit_breaker_state{name="jwks",state="closed"}') == 1.0
    assert bench.shown('circuit_breaker_reset_total{kind="auto",name="jwks"}') == 1.0
    assert await bench.push() == bench.answer


async def test_a_breaker_that_is_reset_by_hand_asks_at_once(from_address: JwksBench) -> None:
    """S0-10: ordered, counted by hand, and answered."""
    bench = from_address
    await bench.keeper.turn()
    document, bench.address.document = bench.address.document, None
    for _ in range(5):
        await bench.look()
    assert bench.breaker.state is BreakerState.OPEN
    bench.address.document = document
    await bench.look()
    assert not bench.may_leave(), "the breaker does not know yet"
    bench.orders.give(Action.BREAKER_RESET)
    await bench.keeper.turn()
    assert bench.result() == (1, "success")
    assert bench.may_leave()
    assert bench.shown('circuit_breaker_reset_total{kind="manual",name="jwks"}') == 1.0
    assert bench.orders.reports[-1][3]["breakers"] == {"jwks": "CLOSED"}


async def test_a_set_without_our_key_pauses_and_a_new_key_id_is_asked_for_at_once(
    from_address: JwksBench, mle: dict[str, MlePair]
) -> None:
    """S1-08, B5: a reload asks anew; an id that the address does not have is not taken into use."""
    bench = from_address
    await bench.look()
    asked = bench.address.asked
    assert isinstance(bench.settings, Settings)
    bench.settings = bench.settings.model_copy(update={"visa_mle_key_id": "unheard-of"})
    await bench.keeper.turn()
    bench.orders.give(Action.RELOAD)
    await bench.keeper.turn()
    assert bench.result() == (1, "failure")
    assert "unheard-of" in str(bench.orders.reports[-1][2])
    assert bench.address.asked > asked
    await bench.look()
    assert bench.may_leave(), "the key in use is still there"
    bench.address.document = key_set(mle["server"], "new")
    await bench.look(600.0)
    await bench.look()
    assert bench.pauses.reasons == ("keys:KEY_UNKNOWN",)
    bench.settings = bench.settings.model_copy(
        update={"visa_mle_key_id": "new", "visa_mle_private_key_path": bench.files.path("new.key")}
    )
    bench.keeper.ask_to_reload()
    await bench.keeper.turn()
    await bench.look()
    assert bench.may_leave()
    assert bench.in_use()[1] == "new"


async def test_without_a_breaker_a_reset_changes_nothing(bench: Bench) -> None:
    """S0-10: keys from files have none."""
    bench.orders.give(Action.BREAKER_RESET)
    await bench.keeper.turn()
    assert bench.result() == (1, "unchanged")


# --- keys that come while calls are under way ----------------------------------------------------------------------


async def test_calls_under_way_open_answers_to_a_key_that_came_after_they_began(bench: Bench) -> None:
    """B5, S0-05: Visa may answer to the next key as soon as every worker has it, also a call from before that, and one
    from before the exchange before that; what was in use for the call is still tried first."""
    began_with = [bench.connected[-1].encryption]
    bench.files.new_client("client-2")
    await bench.keeper.reload("another certificate")
    began_with.append(bench.connected[-1].encryption)
    assert all(encryption.decrypts_with == ("old",) for encryption in began_with)
    following = {"visa_mle_next_key_id": "new", "visa_mle_next_private_key_path": bench.files.path("new.key")}
    bench.settings = bench.files.settings(**following)
    await bench.keeper.reload("the next pair beside it")
    assert bench.connected[-1].encryption not in began_with
    assert all(encryption.decrypts_with == ("old", "new") for encryption in began_with)
