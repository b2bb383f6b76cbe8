"""Timelines, money, redaction, certificates, times, output."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.interface import HistoryEntry
from ops.events import parse_since, selection
from ops.failures import CommandFailed
from ops.kafka import client_config, consumer_config, producer_config
from ops.money_text import amount_text
from ops.output import cell, message, parse_time, to_json
from ops.redaction import printable, redacted
from ops.show import KEYED_TOPICS, _places
from ops.timeline import SHOWN_FIELDS, timeline
from schemas.catalog import RECORDS
from schemas.topics import TOPICS
from streams.settings import Settings

CARD = "4111111111111111"
NOW = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)


def entry(version: int, transition: str, seconds: float) -> HistoryEntry:
    """One line of history."""
    state = "RECEIVED" if version == 1 else "CLEARED"
    at = NOW + timedelta(seconds=seconds)
    return HistoryEntry("order-2026-0001", version, at, "worker-1", transition, None, state, {"attempt": version})


def event(schema: str, seconds: float, offset: int = 0, **fields: Any) -> dict[str, Any]:
    """One decoded record."""
    meta = {
        "topic": schema, "partition": 0, "offset": offset, "at": NOW + timedelta(seconds=seconds), "schema": schema,
        "key": "order-2026-0001", "ce_id": "e", "ce_type": None, "ce_time": None, "correlation_id": None,
    }  # fmt: skip
    return {"payout_id": "order-2026-0001", **fields, "meta": meta}


REQUEST: dict[str, Any] = {
    "amount": {"amount_minor": 1, "currency": "JPY"},
    "corridor": {"source_country": "JP", "target_country": "JP", "source_currency": "JPY", "target_currency": "JPY"},
    "funding": {"kind": "AFT"},
    "destination": {"kind": "CARD", "card": {"encrypted_card": "eyJ.secret"}},
    "originator_id": f"shop {CARD}",
    "personal_data": "eyJ.secret",
}


def test_the_ledgers_order_wins_over_the_clocks() -> None:
    """K3: an event never stands before the version that it reports; the request never after its own receipt."""
    history = [entry(1, "received", 10.0), entry(2, "intent", 10.5), entry(3, "paid", 10.2)]
    events = [
        event("PayoutResult", 9.0, version=3, status="PAID"),
        event("PayoutRequest", 11.0, offset=4, **REQUEST),
        event("PayoutRequest", 12.0, offset=9, **REQUEST),
    ]
    moments = timeline(history, events, (), ("PayoutRequest", 0, 4))
    assert [(moment.what, moment.offset) for moment in moments] == [
        ("PayoutRequest", 4), ("received", None), ("intent", None), ("paid", None), ("PayoutResult", 0),
        ("PayoutRequest", 9),
    ]  # fmt: skip


@given(st.permutations(range(5)), st.lists(st.floats(-5, 5), min_size=5, max_size=5))
def test_history_is_always_shown_by_version(order: list[int], seconds: list[float]) -> None:
    """Whatever the clocks said, versions stand in order, and events after what they report."""
    history = [entry(number + 1, "step", seconds[number]) for number in range(5)]
    events = [event("PayoutResult", -9.0, offset=number, version=number + 1) for number in order]
    moments = timeline(history, events)
    assert [moment.version for moment in moments if moment.source == "ledger"] == [1, 2, 3, 4, 5]
    for version in range(1, 6):
        places = [place for place, moment in enumerate(moments) if moment.version == version]
        assert moments[places[0]].source == "ledger"


def test_a_moment_shows_no_encrypted_field_and_no_card_number() -> None:
    """P6: what others wrote is shown only from an allow-list, masked."""
    (moment,) = timeline([], [event("PayoutRequest", 0.0, **REQUEST)])
    text = json.dumps(moment.as_json(), default=str) + str(moment.as_row())
    assert CARD not in text
    assert "secret" not in text
    assert moment.detail["amount"] == "1 JPY"


def test_every_record_has_its_list_of_fields_that_may_be_shown() -> None:
    """A new record does not appear by accident; the audit chain is not keyed by payout."""
    assert set(SHOWN_FIELDS) == set(RECORDS) - {"AuditRecord"}
    assert set(KEYED_TOPICS) == set(TOPICS) - {"payout_dead_letters", "payout_audit"}


def test_records_are_looked_for_where_the_usual_clients_put_them() -> None:
    """L1: client libraries partition differently. The numbers are Java's murmur2 and librdkafka's CRC32."""
    places = _places("t", 12, "order-2026-0001", None)
    assert 1 <= len(places) <= 2
    assert all(topic == "t" and 0 <= number < 12 for topic, number in places)
    # murmur2("21") is -973932308 in Apache Kafka's own test of its partitioner.
    assert (-973932308 & 0x7FFFFFFF) % 1000 in {number for _, number in _places("t", 1000, "21", None)}


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (1250, "USD", "12.50 USD"), (5, "USD", "0.05 USD"), (1250, "JPY", "1250 JPY"), (1250, "KWD", "1.250 KWD"),
        (-5, "USD", "-0.05 USD"), (7, "???", "7 minor units of ???"),
    ],
)  # fmt: skip
def test_amounts_know_the_currencys_exponent(minor: int, currency: str, text: str) -> None:
    """Design 3: JPY 0, USD 2, KWD 3."""
    assert amount_text(minor, currency) == text


def test_redaction_hides_passwords_cards_and_ciphertext() -> None:
    """P6: in every text that others wrote."""
    text = f"to postgresql://u:pa/ss@h/db with {CARD}, token eyJhbGciOi.aa.bb.cc.dd and hunter22"
    hidden = redacted(text, ["hunter22", "a"])
    for secret in ("pa/ss", CARD, "hunter22", "eyJ"):
        assert secret not in hidden
    assert "postgresql://u:***@h/db" in hidden


@pytest.mark.parametrize(
    "written", [CARD, f"pan{CARD}", f"'\\n{CARD}'", "4111.1111.1111.1111", "4111%201111%201111%201111"]
)
def test_no_message_shows_a_card_number(capsys: pytest.CaptureFixture[str], written: str) -> None:
    """P6: a message may quote the text of an error, which may quote anything; an operator's address is his own."""
    message(f"not done for maria@example.com: invalid literal {written}")
    shown = capsys.readouterr().err
    assert "maria@example.com: invalid literal" in shown
    assert "1111" not in shown
    assert "1111" not in redacted(f"invalid literal {written}")


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_printed(text: str) -> None:
    """A record's text cannot move the cursor or set colours."""
    assert printable(text).isprintable()
    assert cell(text).isprintable()


def test_times_need_a_zone_and_json_is_iso() -> None:
    """Times are ISO 8601 in UTC everywhere."""
    assert parse_time("2026-11-22T18:00:00+01:00") == NOW
    assert json.loads(to_json({"at": NOW})) == {"at": "2026-11-22T17:00:00.000000Z"}
    for text in ("2026-11-22T17:00:00", "soon", "0001-01-01T00:00:00+14:00"):
        with pytest.raises(ValueError, match=r"is|has") as caught:
            parse_time(text)
        assert text not in str(caught.value)


def test_since_is_an_age_or_a_time() -> None:
    """30m, 24h, 7d, or ISO 8601."""
    assert parse_since("30m", NOW) == NOW - timedelta(minutes=30)
    assert parse_since("7d", NOW) == NOW - timedelta(days=7)
    assert parse_since("2026-11-22T17:00:00Z", NOW) == NOW
    for text in ("7w", "", "999999d", "-1h"):
        with pytest.raises(CommandFailed):
            parse_since(text, NOW)


def test_following_begins_now_and_looking_back_is_bounded() -> None:
    """Every reading has an end: a limit and a time, unless it follows."""
    common: dict[str, Any] = {"since": None, "limit": None, "dedupe": False, "timeout_seconds": None}
    follow = selection(follow=True, from_beginning=False, accepts=lambda _: True, **common)
    assert (follow.only_new, follow.limit, follow.timeout_seconds) == (True, None, None)
    back = selection(follow=False, from_beginning=False, accepts=lambda _: True, **common)
    assert back.since is not None
    assert back.limit is not None
    assert back.timeout_seconds is not None
    assert selection(follow=False, from_beginning=True, accepts=lambda _: True, **common).since is None


def test_the_producer_waits_for_all_replicas_and_the_reader_has_no_group() -> None:
    """P1: acks=all and idempotence; looking commits nothing. TLS and SASL come from the settings."""
    settings = Settings.model_validate(
        {
            "payouts_profile": "test",
            "kafka_security_protocol": "SASL_SSL",
            "kafka_ssl_ca_path": "ca.pem",
            "kafka_sasl_username": "u",
            "kafka_sasl_password": "hunter22",
        }
    )
    produced = producer_config(settings)
    assert (produced["acks"], produced["enable.idempotence"], produced["partitioner"]) == (
        "all",
        True,
        "murmur2_random",
    )
    assert produced["sasl.password"] == "hunter22"
    assert produced["ssl.ca.location"] == "ca.pem"
    read = consumer_config(settings)
    assert (read["enable.auto.commit"], read["isolation.level"]) == (False, "read_committed")
    assert read["group.id"] != settings.group
    plain = client_config(Settings.model_validate({"payouts_profile": "test"}))
    assert not [name for name in plain if name.startswith(("ssl.", "sasl."))]


@pytest.mark.parametrize("piece", ["a", "eyJ", "4 ", "a://b:", "a://b:c@", "eyJa.", "eyJa.b.c."])
def test_redaction_takes_time_in_proportion_to_the_text(piece: str) -> None:
    """`payouts show` masks headers that others wrote: this took minutes. A hundred times what it takes now."""
    text = (piece * 120_000)[:120_000]
    begun = time.process_time()
    redacted(text, ["secret"])
    assert time.process_time() - begun < 10.0


def test_redaction_masks_an_encrypted_part_wherever_it_stands() -> None:
    """P6: behind letters, behind dots, and twice."""
    token = "eyJhbGciOi.aa.bb.cc.dd"
    for text in (token, f"x{token}", f"x.{token}", f"{token} {token}", f"eyJ.{token}", f"a.b.c.d.{token}"):
        assert "aa.bb" not in redacted(text), text
