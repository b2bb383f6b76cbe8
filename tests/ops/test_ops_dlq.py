"""`payouts dlq list|show|replay|discard` against real Kafka and PostgreSQL (K6, P6, P9)."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import stat
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Message

from ledger.interface import Disposition, InboundPosition, IntakeRecord
from ledger.postgres import PostgresLedger
from ops import dlq
from ops.action_plans import Ended
from ops.exit_codes import ExitCode
from ops.kafka import ConfirmedProducer, Reading, connect_admin, our_topics, reader, spans
from processors.sealing import EnvelopeSealer
from schemas.codec import RECORD_LIMIT_BYTES, BlockingCodec
from schemas.headers import header_text
from schemas.topics import topic_name
from streams.dead_letters import FIRST_TAKEN_HEADER, REPLAYED_HEADER, DeadLetters
from streams.keys import create_keys, load_keys
from streams.metrics import Metrics
from streams.publisher import Publisher
from streams.pump import Record
from tests.ops.conftest import Live, sample_row

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

CARD = "4957030420210462"
NAME = "Bartholomew Okonkwo"
AT = datetime(2026, 11, 27, 9, 30, tzinfo=UTC)
offsets = itertools.count(1000)


class Sent:
    """A publisher of a worker's dead letters."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def publish_bytes(self, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
        """To the brokers' confirmation."""
        producer = ConfirmedProducer(self._live.settings)
        producer.send(topic, key, value, headers)
        producer.finish()
        assert producer.acknowledged == 1


def set_aside(live: Live, value: bytes, key: bytes | None = None, **changes: Any) -> str:
    """What a worker sets aside, as it does; the letter's name."""
    topic = topic_name(changes.pop("topic", "payout_requests"), live.prefix)
    record = replace(Record(topic, 0, next(offsets), AT, key, value, ()), **changes)

    async def work(ledger: PostgresLedger) -> None:
        keys = load_keys(live.directory / "keys")
        publisher = cast("Publisher", cast("Any", Sent(live)))
        letters = DeadLetters(ledger, publisher, keys, prefix=live.prefix, metrics=Metrics())
        await letters.set_aside(record, "UNKNOWN_SCHEMA_ID", f"no schema for {CARD}")

    live.with_ledger(work)
    return record.source


def request(payout_id: str) -> bytes:
    """A request of 12.50 USD as a sender produces it; what is encrypted in it nobody opens here."""
    funding = {"debit_confirmed": True, "confirmation_ref": f"debit-{payout_id}"}
    record = {
        "payout_id": payout_id,
        "originator_id": "shop-1",
        "funding": {"kind": "INTERNAL", "internal": funding, "aft": None, "pis": None},
        "destination": {
            "kind": "CARD",
            "card": {"token_reference": None, "encrypted_card": "eyJhbGciOiJ4In0.a.b.c.d"},
            "account": None,
            "wallet": None,
            "alias": None,
        },
        "amount": {"amount_minor": 1250, "currency": "USD"},
        "corridor": {
            "source_country": "US", "target_country": "US", "source_currency": "USD", "target_currency": "USD",
        },
        "fx_quote": None,
        "personal_data": "eyJhbGciOiJ4In0.a.b.c.d",
        "business_application_id": None,
        "purpose": None,
        "requested_at": AT,
        "expires_at": None,
        "correlation_id": "c-1",
        "metadata": {},
    }  # fmt: skip
    with BlockingCodec() as codec:
        return codec.encode("PayoutRequest", record)


def on_topic(live: Live, name: str, letter: str) -> list[Message]:
    """What was put back of a letter."""
    settings = live.settings
    admin = connect_admin(settings)
    to_read = spans(admin, our_topics(admin, settings, [name]), since=None)
    with reader(settings) as consumer:
        found = list(Reading(consumer, to_read, follow=False, timeout_seconds=30).records())
    headers = [cast("list[tuple[str, bytes]]", record.headers() or []) for record in found]
    return [r for r, said in zip(found, headers, strict=True) if header_text(said, REPLAYED_HEADER) == letter]


def actions(live: Live, letter: str) -> list[tuple[str, str]]:
    """What was done with a letter, by whom."""
    done = live.with_ledger(lambda ledger: ledger.letter_actions.actions([letter]))
    return [(action.action.value, action.operator) for action in done]


def result(live: Live, *words: str, code: ExitCode = ExitCode.OK) -> dict[str, Any]:
    """The one letter of a command's answer."""
    document = live.data("dlq", *words, code=code)
    (letter,) = document["letters"]
    return dict(letter)


# Looking.


def test_k6_letters_are_listed_by_where_they_came_from(live: Live) -> None:
    """K6: source place, reason code, times, state; filters; never what is in them."""
    name = set_aside(live, f'{{"pan": "{CARD}", "name": "{NAME}"}}'.encode())
    other = set_aside(live, b"x", topic="payout_review_decisions")
    listed = {letter["letter"]: letter for letter in live.data("dlq", "list", "--limit", "10000")}
    assert {name, other} <= set(listed)
    found = listed[name]
    assert (found["reason_code"], found["state"], found["taken_at"]) == (
        "UNKNOWN_SCHEMA_ID", "open", "2026-11-27T09:30:00.000000Z",
    )  # fmt: skip
    ours = {letter["letter"] for letter in live.data("dlq", "list", "--topic", "payout_requests")}
    assert name in ours
    assert other not in ours
    assert live.data("dlq", "list", "--reason-code", "OVER_LIMIT") == []
    assert live.data("dlq", "list", "--since", "2099-01-01T00:00:00Z") == []
    assert len(live.data("dlq", "list", "--limit", "1")) == 1
    table = live.run("dlq", "list")
    for secret in (CARD, NAME):
        assert secret not in table.stdout + table.stderr
    assert live.run("dlq", "list", "--state", "lost").exit_code == ExitCode.USAGE


def test_a_list_that_is_not_all_says_so_and_ends_with_its_own_code(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 7: limits on every body; never a part that looks like the whole."""
    set_aside(live, b"one of two")
    set_aside(live, b"the other")
    monkeypatch.setattr(dlq, "SCANNED_MAX", 1)
    told = live.run("dlq", "list", "--state", "all")
    assert told.exit_code == ExitCode.PARTIAL
    assert "1 letter(s)" in told.stderr
    assert "not reached within 1 letters: this is not all" in told.stderr


def test_k6_without_the_key_only_the_provenance_is_shown(live: Live, tmp_path: Path) -> None:
    """K6: who has no key learns where it came from, and cannot replay."""
    name = set_aside(live, request("order-no-key-1"), b"order-no-key-1")
    shown = live.run("dlq", "show", name, "--output", "json", PAYOUTS_KEYS_DIRECTORY=str(tmp_path))
    assert shown.exit_code == ExitCode.OK, shown.stderr
    document = json.loads(shown.stdout)
    assert document["letter"] == name
    assert "closed" in document["content"]
    replayed = live.run("dlq", "replay", name, "--reason", "x", "--yes", PAYOUTS_KEYS_DIRECTORY=str(tmp_path))
    assert replayed.exit_code == ExitCode.USAGE
    create_keys(tmp_path / "other")
    other = live.run("dlq", "show", name, "--key", str(tmp_path / "other" / "dead_letter_private.jwk.json"))
    assert "not opened" in other.stdout
    assert actions(live, name) == []


def test_p6_what_is_shown_holds_no_card_number_and_no_name(live: Live) -> None:
    """P6: of what cannot be read only its form; of a request only harmless fields."""
    bad = set_aside(live, f'{{"pan": "{CARD}", "{CARD}": 1, "recipient": "{NAME}"}}'.encode(), b"order-shown-1")
    good = set_aside(live, request("order-shown-2"), b"order-shown-2")
    shown = live.data("dlq", "show", bad)
    assert shown["content"] == {"form": "JSON", "members": ["pan", "recipient"]}
    request_shown = live.data("dlq", "show", good)
    assert request_shown["would_be"] == "taken"
    assert (request_shown["content"]["payout_id"], request_shown["content"]["amount"]) == (
        "order-shown-2", "12.50 USD",
    )  # fmt: skip
    table = live.run("dlq", "show", bad)
    said = table.stdout + table.stderr + json.dumps([shown, request_shown])
    for secret in (CARD, NAME, "Okonkwo"):
        assert secret not in said


def test_p6_p9_revealing_is_recorded_before_and_goes_to_a_private_file(live: Live, tmp_path: Path) -> None:
    """P6, P9: with a reason, into a new file of its owner's; the screen shows nothing more than before."""
    value = f'{{"pan": "{CARD}"}}'.encode()
    name = set_aside(live, value)
    file = tmp_path / "record.bin"
    assert live.run("dlq", "show", name, "--reveal", str(file)).exit_code == ExitCode.USAGE
    assert live.run("dlq", "show", name, "--reason", "x").exit_code == ExitCode.USAGE
    assert not file.exists()
    told = live.run("dlq", "show", name, "--reveal", str(file), "--reason", "INC-127", "--operator", "maria")
    assert told.exit_code == ExitCode.OK, told.stderr
    assert file.read_bytes() == value
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert CARD not in told.stdout + told.stderr
    assert actions(live, name) == [("REVEALED", "maria")]
    again = live.run("dlq", "show", name, "--reveal", str(file), "--reason", "INC-127")
    assert again.exit_code == ExitCode.REFUSED, "a file that is there is never written over"
    assert actions(live, name) == [("REVEALED", "maria")], "nothing was revealed, nothing is recorded"
    assert live.data("dlq", "show", name)["state"] == "open"


# Replaying.


def test_k6_a_replay_puts_bytes_key_and_identity_back(live: Live) -> None:
    """K6, P9: the effect in money first; the same bytes under the same key, named after the letter; once."""
    value = request("order-replay-1")
    name = set_aside(live, value, b"order-replay-1")
    plan = result(live, "replay", name, "--reason", "INC-127", "--dry-run")
    assert (plan["result"], plan["payout_id"], plan["amount"]) == ("planned", "order-replay-1", "12.50 USD")
    assert "MONEY MOVES, 12.50 USD" in plan["effects"][0]
    assert on_topic(live, "payout_requests", name) == []
    assert actions(live, name) == []
    done = result(live, "replay", name, "--reason", "INC-127", "--operator", "maria", "--yes")
    (record,) = on_topic(live, "payout_requests", name)
    assert (record.key(), record.value()) == (b"order-replay-1", value)
    headers = cast("list[tuple[str, bytes]]", record.headers())
    assert header_text(headers, FIRST_TAKEN_HEADER) == AT.isoformat()
    assert done["record"] == f"{record.topic()}-{record.partition()}-{record.offset()}"
    assert actions(live, name) == [("REPLAY_BEGUN", "maria"), ("REPLAYED", "maria")]
    refused = result(live, "replay", name, "--reason", "INC-127", "--yes", code=ExitCode.REFUSED)
    assert "replayed by maria" in refused["why"]
    assert len(on_topic(live, "payout_requests", name)) == 1
    again = result(live, "replay", name, "--again", "--reason", "INC-127: the first was set aside", "--yes")
    assert again["result"] == "done"
    assert len(on_topic(live, "payout_requests", name)) == 2
    states = {letter["letter"]: letter["state"] for letter in live.data("dlq", "list", "--state", "replayed")}
    assert states[name] == "replayed"
    assert name not in {letter["letter"] for letter in live.data("dlq", "list")}


def test_k6_the_plan_says_what_a_replay_cannot_do(live: Live) -> None:
    """K6, P5, P2: a payout_id that the ledger knows pays nothing new; what is not understood comes back."""
    live.store(sample_row("order-known-1"))
    known = set_aside(live, request("order-known-1"), b"order-known-1")
    plan = result(live, "replay", known, "--reason", "x", "--dry-run")
    assert "nothing new is paid: order-known-1 is RECEIVED" in plan["effects"][0]
    unread = set_aside(live, b"nothing", b"order-unread-1")
    assert "set aside again" in result(live, "replay", unread, "--reason", "x", "--dry-run")["effects"][0]
    other_key = set_aside(live, request("order-key-1"), b"order-key-2")
    assert "KEY_IS_NOT_PAYOUT_ID" in result(live, "replay", other_key, "--reason", "x", "--dry-run")["effects"][0]
    no_key = set_aside(live, request("order-key-3"), None)
    assert "MONEY MOVES" in result(live, "replay", no_key, "--reason", "x", "--yes")["effects"][0]
    (record,) = on_topic(live, "payout_requests", no_key)
    assert record.key() is None


def forged(live: Live, **headers: str) -> str:
    """A letter that somebody else wrote, in the partition where a worker would have put it; its name."""
    offset = next(offsets)
    told = {
        "source_topic": topic_name("payout_requests", live.prefix),
        "source_partition": "0",
        "source_offset": str(offset),
        "source_timestamp": AT.isoformat(),
        "reason_code": "MALFORMED",
        "error": "",
        "sha256": "0" * 64,
        "length": "1",
        "truncated": "false",
        "encryption_key_id": "k",
    } | headers
    sealer = EnvelopeSealer((live.directory / "keys" / "dead_letter_public.jwk.json").read_text())
    producer = ConfirmedProducer(live.settings)
    topic = topic_name("payout_dead_letters", live.prefix)
    value = sealer.seal(request(f"order-forged-{offset}"))
    name = f"{told['source_topic']}-{told['source_partition']}-{told['source_offset']}"
    producer.send(topic, name, value, [(header, text.encode()) for header, text in told.items()])
    producer.finish()
    return name


def test_k6_what_is_not_ours_or_not_whole_is_not_put_back(live: Live) -> None:
    """K6, issue 7: refused with the reason and exit code 3; nothing on the topic, nothing in the ledger."""
    wrong = {
        forged(live): "the ledger knows of no such dead letter",
        forged(live, source_topic="another_teams_topic"): "no worker of ours reads",
        forged(live, source_topic=topic_name("payout_results", live.prefix)): "no worker of ours reads",
        set_aside(live, b"x" * (RECORD_LIMIT_BYTES + 1), b"order-long-1"): "only its beginning is kept",
        set_aside(live, request("order-long-2"), b"k" * 2000): "key is too long",
    }
    for name, why in wrong.items():
        refused = result(live, "replay", name, "--reason", "x", "--yes", code=ExitCode.REFUSED)
        assert why in refused["why"], name
        assert actions(live, name) == []
        assert on_topic(live, "payout_requests", name) == []
    missing = result(live, "replay", "payout_requests-0-1", "--reason", "x", "--yes", code=ExitCode.FOUND)
    assert missing["result"] == "not found"


def test_k6_bytes_that_were_changed_are_not_put_back(live: Live) -> None:
    """K6: anybody can encrypt to a public key; the SHA-256 of the record stands beside it."""
    place = str(next(offsets))
    name = forged(live, source_offset=place)
    known = IntakeRecord(topic_name("payout_requests", live.prefix), 0, int(place), Disposition.DEAD_LETTER, None, "X")
    live.with_ledger(lambda ledger: ledger.record_intake(known))
    refused = result(live, "replay", name, "--reason", "x", "--yes", code=ExitCode.REFUSED)
    assert "not what its SHA-256 says" in refused["why"]
    assert on_topic(live, "payout_requests", name) == []


@pytest.mark.parametrize("truncated", ["false", "true"])
@pytest.mark.parametrize("is_read_first", [True, False])
def test_k6_a_copy_with_other_bytes_neither_hides_a_letter_nor_is_put_back_for_it(
    live: Live, is_read_first: bool, truncated: str
) -> None:
    """K6: whoever copies a letter's headers may have his copy read before it or after it: the letter is put back."""
    payout_id = f"order-copied-{is_read_first}-{truncated}"
    offset, value = next(offsets), request(payout_id)
    copied = {"source_offset": str(offset), "sha256": hashlib.sha256(value).hexdigest(), "truncated": truncated}
    if is_read_first:
        forged(live, **copied)
    name = set_aside(live, value, payout_id.encode(), offset=offset)
    if not is_read_first:
        forged(live, **copied)
    assert live.data("dlq", "show", name)["content"]["payout_id"] == payout_id
    result(live, "replay", name, "--reason", "x", "--yes")
    (record,) = on_topic(live, "payout_requests", name)
    assert record.value() == value


def test_k6_of_two_letters_that_differ_in_the_key_alone_none_is_chosen(live: Live) -> None:
    """K6: the SHA-256 does not cover the key; a person finds out which of them is ours."""
    offset, value = next(offsets), request("order-keyed-1")
    name = set_aside(live, value, b"order-keyed-1", offset=offset)
    set_aside(live, value, b"order-keyed-2", offset=offset)
    refused = live.run("dlq", "replay", name, "--reason", "x", "--yes")
    assert refused.exit_code == ExitCode.REFUSED
    assert "different keys" in refused.stderr
    assert on_topic(live, "payout_requests", name) == []


def test_k9_a_replayed_record_is_accounted_for_by_its_own_place(live: Live) -> None:
    """K9: letter and replay are two inbound records; until a worker takes it the second one is missing, as any is."""
    name = set_aside(live, request("order-counted-1"), b"order-counted-1")
    place = result(live, "replay", name, "--reason", "x", "--yes")["record"]
    topic, partition, offset = place.rsplit("-", 2)

    def lost(*places: tuple[str, int, int]) -> int:
        positions = [InboundPosition(*one, "order-counted-1") for one in places]
        return len(live.with_ledger(lambda ledger: ledger.unaccounted(positions)))

    own, source = (topic, int(partition), int(offset)), name.rsplit("-", 2)
    assert lost((source[0], int(source[1]), int(source[2]))) == 0
    assert lost(own) == 1
    live.store(sample_row("order-counted-1", source_topic=own[0], source_partition=own[1], source_offset=own[2]))
    assert lost(own) == 0


def test_p9_two_operators_replay_a_letter_once(live: Live) -> None:
    """P9: both have seen it open; one wins, the other is told who was faster; one record."""
    name = set_aside(live, request("order-race-1"), b"order-race-1")
    settings = live.settings
    plans = dlq._with_contents(settings, dlq._found(settings, [name]), dlq._opener(settings, None, needed=True))
    plans = asyncio.run(dlq._replay_plans(settings, plans, again=False))

    async def both() -> list[Any]:
        acts = (dlq._replayed(settings, plans, operator, "INC-1") for operator in ("maria", "jan"))
        return [one for (one,) in await asyncio.gather(*acts)]

    ends = asyncio.run(both())
    assert sorted(one.ended for one in ends) == sorted([Ended.DONE, Ended.REFUSED])
    (told,) = [one.why for one in ends if one.ended is Ended.REFUSED]
    assert "was faster" in told
    assert len(on_topic(live, "payout_requests", name)) == 1


def test_k6_a_replay_that_was_begun_and_not_ended_says_so(live: Live) -> None:
    """K6, L4: a command that died in between left it unknown; --again is harmless and needed."""
    from ledger.letter_actions import LetterAction

    name = set_aside(live, request("order-begun-1"), b"order-begun-1")
    digest = live.data("dlq", "show", name)["sha256"]
    live.with_ledger(
        lambda ledger: ledger.letter_actions.act(
            name, digest, after=0, action=LetterAction.REPLAY_BEGUN, operator="jan", reason="x"
        )
    )
    assert name in {letter["letter"] for letter in live.data("dlq", "list", "--limit", "10000")}
    refused = result(live, "replay", name, "--reason", "x", "--yes", code=ExitCode.REFUSED)
    assert "replay begun by jan" in refused["why"]
    assert result(live, "replay", name, "--again", "--reason", "x", "--yes")["result"] == "done"


# Discarding.


def test_p9_a_discarded_letter_is_replayed_only_again(live: Live) -> None:
    """P9: the money behind it first, reason and name in the history, nothing deleted; the way back is --again."""
    name = set_aside(live, request("order-discard-1"), b"order-discard-1")
    plan = result(live, "discard", name, "--reason", "INC-1", "--dry-run")
    assert "a request for 12.50 USD stays unpaid" in plan["effects"][0]
    assert actions(live, name) == []
    result(live, "discard", name, "--reason", "INC-1", "--operator", "maria", "--yes")
    assert result(live, "discard", name, "--reason", "INC-1", "--yes")["result"] == "unchanged"
    assert actions(live, name) == [("DISCARDED", "maria")]
    refused = result(live, "replay", name, "--reason", "x", "--yes", code=ExitCode.REFUSED)
    assert "discarded by maria" in refused["why"]
    assert result(live, "replay", name, "--again", "--reason", "x", "--yes")["result"] == "done"


def test_design_10_of_several_letters_each_ends_for_itself(live: Live) -> None:
    """Design 10: one done and one refused is exit code 5; a reason is needed, a card number is none."""
    well, wrong = set_aside(live, request("order-some-1"), b"order-some-1"), forged(live)
    document = live.data("dlq", "replay", well, wrong, "--reason", "x", "--yes", code=ExitCode.PARTIAL)
    assert [letter["result"] for letter in document["letters"]] == ["done", "refused"]
    assert document["money"] == {"USD": 1250}
    for words in (("--reason", " "), ("--reason", "x"), ("--reason", "x", "--dry-run", "--yes")):
        assert live.run("dlq", "discard", well, *words).exit_code == ExitCode.USAGE
    assert live.run("dlq", "discard", well, "--reason", f"card {CARD}", "--yes").exit_code == ExitCode.REFUSED
