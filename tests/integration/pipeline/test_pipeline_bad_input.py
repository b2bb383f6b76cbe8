"""Bad records through the real pipeline: each is accounted for, none stops a partition, none leaks."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from processors.sealing import EnvelopeOpener
from schemas.codec import RECORD_LIMIT_BYTES
from schemas.topics import TOPICS
from tests.integration.pipeline.pipeline_harness import Pipeline, Seen, internal_funding, new_id, one_event, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

CARD_NUMBER = "4957030420210462"  # published by Visa for its sandbox; nobody's
TABLES = ("payouts", "history", "receipts", "card_pulls", "intake", "modes", "verified_offsets")


def test_bad_records_are_set_aside_and_the_partition_goes_on(running: Pipeline) -> None:
    """K6, P8: what cannot be a payout is encrypted to our key with where it came from; the next record is paid."""
    request = running.request()
    valid = running.encode("PayoutRequest", request)
    unknown_id = b"\x00" + (4711).to_bytes(4, "big") + valid[5:]
    bad: dict[str, tuple[bytes, bytes]] = {
        "NO_MAGIC_BYTE": (b"some-key", b"\x07this is no Avro"),
        "MALFORMED": (b"some-key", valid[:-40]),
        "UNKNOWN_SCHEMA_ID": (b"some-key", unknown_id),
        "KEY_IS_NOT_PAYOUT_ID": (b"somebody-elses-payout", valid),
        "OVER_LIMIT": (b"some-key", valid + b"x" * (300 * 1024 - len(valid))),
    }
    topic = running.prefix + "payout_requests"
    places = {name: running.produce("payout_requests", value, key, 0) for name, (key, value) in bad.items()}
    good = new_id()
    running.send(running.request(good), partition=0)
    unkeyed = running.request()
    running.produce("payout_requests", running.encode("PayoutRequest", unkeyed), None, 0)

    # A missing key is no error (K6); and a foreign key does not make a payout.
    running.wait_row(good, state="PAID")
    running.wait_row(unkeyed["payout_id"], state="PAID")
    assert running.row(request["payout_id"]) == {}
    found_letters = until("their letters", lambda: _letters_for(running, list(places.values())))
    letters = {letter.key: letter for letter in found_letters}
    opener = _opener(running)
    for name, (partition, offset) in places.items():
        key, value = bad[name]
        letter = letters[f"{topic}-{partition}-{offset}".encode()]
        _assert_faithful(letter, opener, key, value)
        assert letter.headers["reason_code"] == name.encode()
    found = running.fetch("SELECT * FROM intake WHERE topic = $1 AND disposition = 'DEAD_LETTER'", topic)
    assert {(row["partition_number"], row["record_offset"]) for row in found} >= set(places.values())
    last = max(offset for _, offset in places.values())
    until("the commit past them", lambda: running.committed("payout_requests", 0) > last)


def test_a_tombstone_is_set_aside_and_its_letter_opens(running: Pipeline) -> None:
    """K6: a record without a value is accounted for like any other that is no request."""
    partition, offset = running.produce("payout_requests", None, b"some-key", 1)
    good = new_id()
    running.send(running.request(good), partition=1)
    running.wait_row(good, state="PAID")
    letter = until("its letter", lambda: _letters_for(running, [(partition, offset)]))[0]
    assert letter.headers["reason_code"] == b"NO_MAGIC_BYTE"
    _assert_faithful(letter, _opener(running), b"some-key", b"")


def _opener(pipeline: Pipeline) -> EnvelopeOpener:
    return EnvelopeOpener([json.loads((pipeline.keys / "dead_letter_private.jwk.json").read_text())])


def _assert_faithful(letter: Seen, opener: EnvelopeOpener, key: bytes, value: bytes) -> None:
    assert opener.open(letter.value or b"") == value[:RECORD_LIMIT_BYTES]
    assert letter.headers["sha256"] == hashlib.sha256(value).hexdigest().encode()
    assert letter.headers["length"] == str(len(value)).encode()
    assert letter.headers["truncated"] == (b"true" if len(value) > RECORD_LIMIT_BYTES else b"false")
    assert opener.open(letter.headers["key_sealed"]) == key


def test_the_same_id_with_other_content_is_refused_and_touches_nothing(running: Pipeline) -> None:
    """K7, P5, C1: a refused request is not a failed payout; its funding may be the paid one's."""
    first = running.request(amount_minor=1000)
    payout_id = first["payout_id"]
    running.send(first)
    before = running.wait_row(payout_id, state="PAID")
    partition, offset = running.send(running.request(payout_id, amount_minor=2000))

    refused = one_event(until("the refusal", lambda: running.events_of("payout_refusals", payout_id)))
    record = running.decode("RequestRefused", refused.value)
    assert (record["source_partition"], record["source_offset"]) == (partition, offset)
    assert record["reason_code"] == "DUPLICATE_WITH_OTHER_CONTENT"
    assert running.row(payout_id) == before
    assert running.events_of("payout_failed_requires_compensation", payout_id) == []
    assert one_event(running.events_of("payout_results", payout_id))
    assert [entry["amount"] for entry in running.approved(payout_id)] == ["10.00"]


def test_a_repeat_is_answered_again_with_the_same_event(running: Pipeline) -> None:
    """P5, K3, L8: encrypted anew by the originator, yet the same request."""
    first = running.request()
    payout_id = first["payout_id"]
    running.send(first)
    before = running.wait_row(payout_id, state="PAID")
    again = running.request(payout_id)
    assert again["personal_data"] != first["personal_data"]
    running.send(again)

    def two() -> list[Seen]:
        found = running.events_of("payout_results", payout_id)
        return found if len(found) > 1 else []

    results = until("the second answer", two)
    assert one_event(results)
    assert running.row(payout_id) == before
    assert len(running.approved(payout_id)) == 1


def test_a_card_number_in_clear_is_rejected_and_found_nowhere(running: Pipeline) -> None:
    """P6, K7: every field; not in any topic but the requests, any table, any log line."""
    spaced = " ".join(CARD_NUMBER[at : at + 4] for at in range(0, 16, 4))
    dirty: list[dict[str, Any]] = [
        running.request(purpose=CARD_NUMBER),
        running.request(metadata={"note": f"card {spaced}"}),
        running.request(metadata={CARD_NUMBER: "note"}),
        running.request(correlation_id=f"order {CARD_NUMBER}"),
        running.request(originator_id=CARD_NUMBER),
        running.request(funding=internal_funding(CARD_NUMBER)),
        running.request(CARD_NUMBER),
        running.request(personal_data=CARD_NUMBER),
    ]
    card_as_token = running.request()
    card_as_token["destination"] = {"kind": "CARD", "card": {"token_reference": CARD_NUMBER}}
    dirty.append(card_as_token)
    named_by_it = running.request(f"pay-{CARD_NUMBER}")
    places = [running.send(request) for request in [*dirty, named_by_it]]

    for request in dirty:
        if request["payout_id"] != CARD_NUMBER:
            row = running.wait_row(request["payout_id"], state="REJECTED")
            assert row["reason_code"], "a caller can act on it"
    letters = until("both unusable ids", lambda: _letters_for(running, [places[6], places[-1]]))
    assert {letter.headers["reason_code"] for letter in letters} == {b"PAYOUT_ID_UNUSABLE"}
    for form in (CARD_NUMBER, spaced):
        requests = b"".join(record.value or b"" for record in running.events("payout_requests"))
        assert form.encode() in requests, "the search finds what is there"
        _assert_nowhere(running, form)


def _letters_for(pipeline: Pipeline, places: list[tuple[int, int]]) -> list[Seen]:
    keys = {f"{pipeline.prefix}payout_requests-{partition}-{offset}".encode() for partition, offset in places}
    found = [letter for letter in pipeline.events("payout_dead_letters") if letter.key in keys]
    return found if {letter.key for letter in found} == keys else []


def _assert_nowhere(pipeline: Pipeline, number: str) -> None:
    forms = [number.encode(), number.encode().hex().encode()]
    for topic in TOPICS:
        if topic == "payout_requests":
            continue
        for record in pipeline.events(topic):
            content = b"\n".join([record.key or b"", record.value or b"", *record.headers.values()])
            assert not any(form in content for form in forms), f"{topic}-{record.partition}-{record.offset}"
    for table in TABLES:
        text = "\n".join(row["line"] for row in pipeline.fetch(f"SELECT t::text AS line FROM {table} t")).encode()
        assert not any(form in text for form in forms), table
    logs = "".join(worker.log() for worker in pipeline.workers).encode()
    assert "record dead-lettered" in logs.decode(), "this is the worker's log"
    assert not any(form in logs for form in forms), "the worker's log"
