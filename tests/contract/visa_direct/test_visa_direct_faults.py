"""Faults of the stand-in: each does what its name says and leaves the ledger in the state it promises (S4)."""

import asyncio
import json
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from tests.contract.visa_direct.visa_direct_client import (
    APPROVED_CARD,
    LONG_SECONDS,
    PUSH,
    VisaClient,
    eventually,
    funding,
    push_body,
    reverse_body,
)


def rule(fault: str, operation: str = "push", **more: Any) -> dict[str, Any]:
    return {"operation": operation, "fault": fault} | more


async def moved_count(visa: VisaClient) -> int:
    return sum(entry["money_moved"] for entry in await visa.entries())


@pytest.mark.parametrize("fault", ["effect_then_silence", "effect_then_reset"])
async def test_the_effect_stays_when_the_reply_is_lost(visa: VisaClient, fault: str) -> None:
    """S4: bytes were sent, no reply came, and it was paid; the resend is 94."""
    await visa.faults(rule(fault, times=1))
    with visa.impatient(), pytest.raises((httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError)):
        await visa.push(push_body())
    await eventually(lambda: moved_count(visa))  # the client may have left before the effect was written
    assert await moved_count(visa) == 1
    again = await visa.push(push_body())
    assert (again.body["actionCode"], again.body["originalActionCode"]) == ("94", "00")


@pytest.mark.parametrize("fault", ["silence_before_effect", "reset_before_effect", "refuse"])
async def test_nothing_happens_when_the_request_is_lost(visa: VisaClient, fault: str) -> None:
    """S4: the client sees the same, and nothing was paid; the resend pays."""
    await visa.faults(rule(fault, times=1))
    lost = (httpx.ReadTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
    with visa.impatient(), pytest.raises(lost):
        await visa.push(push_body())
    assert await visa.entries() == []
    assert (await visa.push(push_body())).body["actionCode"] == "00"


async def test_silence_ends_when_its_seconds_are_over(visa: VisaClient) -> None:
    """A silent connection is cut at last, so a client without a time-out is not held for ever."""
    await visa.faults(rule("effect_then_silence", seconds=0.2))
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await visa.push(push_body())


async def test_server_errors_come_with_and_without_effect(visa: VisaClient) -> None:
    """S4: a 5xx says nothing about the effect."""
    number = 0
    for status in (500, 502, 503, 504):
        for fault, effects in ((f"{status}", 0), (f"effect_then_{status}", 1)):
            number, before = number + 1, await moved_count(visa)
            await visa.faults(rule(fault))
            answer = await visa.push(push_body(number))
            assert (fault, answer.status, answer.encrypted) == (fault, status, False)
            assert answer.body["responseStatus"]["status"] == status
            assert (fault, await moved_count(visa) - before) == (fault, effects)


async def test_a_rate_limit_says_when_to_come_back(visa: VisaClient) -> None:
    """S4, S7: 429 with Retry-After, without effect; then the same request pays."""
    await visa.faults(rule("429", times=2, retry_after=3))
    for _ in range(2):
        answer = await visa.push(push_body())
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert await visa.entries() == []
    assert (await visa.push(push_body())).body["actionCode"] == "00"


async def test_definite_refusals_have_no_effect(visa: VisaClient) -> None:
    """S4: definite for that attempt."""
    for status in (400, 401, 403, 404):
        await visa.faults(rule(str(status)))
        assert (await visa.push(push_body())).status == status
    assert await visa.entries() == []


async def test_slow_takes_its_time_and_then_pays(visa: VisaClient) -> None:
    """A slow reply within the client's patience is a normal one; beyond the header it is a 202."""
    await visa.faults(rule("slow", seconds=0.4))
    loop = asyncio.get_running_loop()
    before = loop.time()
    assert (await visa.push(push_body(1))).status == 200
    assert loop.time() - before >= 0.4
    assert (await visa.push(push_body(2), X_Transaction_Timeout_MS="100")).status == 202


async def test_late_202_has_its_effect_later(visa: VisaClient) -> None:
    """S4: 202 at once, nothing in the ledger, status GET 202 and a PENDING row; the effect comes after."""
    await visa.faults(rule("late_202", seconds=LONG_SECONDS))
    accepted = await visa.push(push_body())
    identifier = accepted.body["statusIdentifier"]
    assert accepted.status == 202
    assert await visa.entries() == []
    assert (await visa.status(identifier)).status == 202
    assert [row["statusCode"] for row in (await visa.query(push_body())).body] == ["PENDING"]
    await visa.knobs(clock_ahead_seconds=LONG_SECONDS)
    answer = await visa.settled(f"{PUSH}/{identifier}")
    assert answer.body["actionCode"] == "00"
    assert await moved_count(visa) == 1


async def test_a_delay_ends_when_the_clock_is_set_past_it_and_no_sooner(visa: VisaClient) -> None:
    """Nobody has to sit it out, so it can be long enough for any machine."""
    await visa.faults(rule("late_202", seconds=3600))
    asked_at_ms = int(visa.now() * 1000)
    identifier = (await visa.push(push_body())).body["statusIdentifier"]
    for seconds in (3000, 3600):
        assert (await visa.status(identifier)).status == 202
        await visa.knobs(clock_ahead_seconds=seconds)
    assert (await visa.settled(f"{PUSH}/{identifier}")).body["actionCode"] == "00"
    assert (await visa.entries())[0]["at_ms"] - asked_at_ms >= 3_600_000


async def test_a_resend_that_overtakes_a_late_202_is_the_only_payment(visa: VisaClient) -> None:
    """P2: whichever comes first pays, the other is 94."""
    await visa.faults(rule("late_202", seconds=LONG_SECONDS, times=1))
    accepted = await visa.push(push_body())
    assert (await visa.push(push_body())).body["actionCode"] == "00"
    await visa.knobs(clock_ahead_seconds=LONG_SECONDS)
    late = await visa.settled(f"{PUSH}/{accepted.body['statusIdentifier']}")
    assert (late.body["actionCode"], late.body["originalActionCode"]) == ("94", "00")
    assert await moved_count(visa) == 1


async def test_a_malformed_body_is_no_answer(visa: VisaClient) -> None:
    """S4: 200 without a readable body; it was paid."""
    await visa.faults(rule("malformed_body"))
    content = visa.encrypt(json.dumps(push_body()).encode())
    response = await visa.visa.post(PUSH, content=content, headers=visa.headers())
    assert response.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        response.json()
    assert await moved_count(visa) == 1


async def test_an_undecryptable_body_is_no_answer(visa: VisaClient) -> None:
    """S4: 200 whose JWE does not open; it was paid."""
    from jwcrypto.common import JWException

    await visa.faults(rule("undecryptable_body"))
    with pytest.raises(JWException):
        await visa.push(push_body())
    assert await moved_count(visa) == 1


async def test_an_answer_without_action_code(visa: VisaClient) -> None:
    """S4: 200 without actionCode; it was paid, and the query says so."""
    await visa.faults(rule("no_action_code"))
    answer = await visa.push(push_body())
    assert answer.status == 200
    assert "actionCode" not in answer.body
    assert [row["actionCode"] for row in (await visa.query(push_body())).body] == ["00"]


async def test_a_bare_94(visa: VisaClient) -> None:
    """S4: 94 without originalActionCode; it was paid, and the query says so."""
    await visa.faults(rule("duplicate_without_original"))
    answer = await visa.push(push_body())
    assert answer.body["actionCode"] == "94"
    assert not {"originalActionCode", "approvalCode"} & set(answer.body)
    assert await moved_count(visa) == 1


async def test_query_lag_and_not_found_hide_rows_of_one_payout(visa: VisaClient) -> None:
    """S5: what the query does not show may have been paid; selectable by payout also here."""
    reference = push_body(1)["senderReference"]
    await visa.push(push_body(1))
    await visa.push(push_body(2))
    await visa.faults(rule("query_not_found", "query", sender_reference=reference, times=1))
    assert [len((await visa.query(push_body(1))).body) for _ in range(2)] == [0, 1]
    await visa.faults(rule("query_lag", "query", sender_reference=reference, seconds=3600))
    assert [len((await visa.query(push_body(n))).body) for n in (1, 2)] == [0, 1]
    await visa.faults(rule("query_lag", "query", sender_reference=reference, seconds=0))
    assert len((await visa.query(push_body(1))).body) == 1


async def test_a_query_can_show_an_earlier_state(visa: VisaClient) -> None:
    """S5: a stale snapshot, of any age or until the row is so old; a paid transaction looks like one under way."""
    await visa.push(push_body())
    await visa.faults(rule("query_stale_in_progress", "query", times=1))
    earlier, now = [(await visa.query(push_body())).body[0] for _ in range(2)]
    assert earlier["statusCode"] == "IN_PROGRESS"
    assert not {"actionCode", "approvalCode", "responseCode", "originalActionCode"} & set(earlier)
    assert (now["statusCode"], now["actionCode"]) == ("COMPLETED", "00")
    for seconds, status in ((3600, "IN_PROGRESS"), (0, "COMPLETED")):
        await visa.faults(rule("query_stale_in_progress", "query", seconds=seconds))
        assert (await visa.query(push_body())).body[0]["statusCode"] == status


@pytest.mark.parametrize(("fault", "original"), [("query_stale_duplicate", "00"), ("query_stale_bare_duplicate", None)])
async def test_a_query_can_show_the_row_of_a_repeat_alone(visa: VisaClient, fault: str, original: str | None) -> None:
    """S5: a 94 row counts by its originalActionCode, and without one it is nothing; it was paid."""
    await visa.push(push_body())
    await visa.faults(rule(fault, "query", times=1))
    (row,) = (await visa.query(push_body())).body
    assert (row["statusCode"], row["actionCode"], row.get("originalActionCode")) == ("COMPLETED", "94", original)
    assert [row["actionCode"] for row in (await visa.query(push_body())).body] == ["00"]


async def test_a_first_request_can_be_answered_as_a_repeat(visa: VisaClient) -> None:
    """S4: 94 with originalActionCode, as if the network had seen it twice; one effect."""
    await visa.faults(rule("duplicate_with_original", times=1))
    answer = await visa.push(push_body())
    assert (answer.body["actionCode"], answer.body["originalActionCode"]) == ("94", "00")
    assert await moved_count(visa) == 1
    declined = push_body(2, "tok_decline_05")
    answer = await visa.push(declined)
    assert (answer.body["actionCode"], answer.body["originalActionCode"]) == ("94", "05")
    assert await moved_count(visa) == 1


async def test_a_rate_limit_can_give_its_time_as_a_date(visa: VisaClient) -> None:
    """S7: Retry-After has two forms (RFC 9110)."""
    await visa.faults(rule("429", retry_after=30, retry_after_form="date"))
    answer = await visa.push(push_body())
    until = parsedate_to_datetime(answer.headers["Retry-After"])
    now = parsedate_to_datetime(answer.headers["Date"])
    assert (answer.status, 28 <= (until - now).total_seconds() <= 32) == (429, True)


async def test_connections_are_refused_until_the_plan_changes(visa: VisaClient) -> None:
    """S4, S7: not a byte can leave; open connections are cut, the sandbox port stays."""
    assert (await visa.push(push_body(1))).body["actionCode"] == "00"
    await visa.faults(rule("refuse_connections", "connect"))
    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            await visa.push(push_body(2))
    with pytest.raises(httpx.ConnectError):
        await visa.push(push_body(2))
    assert [entry["stan"] for entry in await visa.entries()] == ["100001"]
    await visa.faults()
    assert (await visa.push(push_body(2))).body["actionCode"] == "00"


async def test_refused_connections_end_by_themselves(visa: VisaClient) -> None:
    """The rule's seconds are the outage."""
    await visa.faults(rule("refuse_connections", "connect", seconds=0.3))
    with pytest.raises(httpx.ConnectError):
        await visa.push(push_body())

    async def back() -> bool:
        try:
            return (await visa.push(push_body())).status == 200
        except httpx.TransportError:
            return False

    assert await eventually(back)


async def test_reads_can_fail_too(visa: VisaClient) -> None:
    """A query and a status GET meet 5xx, 429 and silence like anything else."""
    accepted = await visa.push(push_body(), X_Transaction_Timeout_MS="1")
    await visa.faults(rule("503", "query", times=1), rule("429", "status", times=1), rule("500", "status", times=1))
    assert (await visa.query(push_body())).status == 503
    assert (await visa.query(push_body())).status == 200
    identifier = accepted.body["statusIdentifier"]
    assert [(await visa.status(identifier)).status for _ in range(2)] == [429, 500]


async def test_a_reversal_can_lose_its_reply(visa: VisaClient) -> None:
    """C4: reversal done, reply lost; the repeat is 94."""
    await visa.fund(funding())
    await visa.faults(rule("effect_then_reset", "reverse", times=1))
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await visa.reverse(reverse_body())
    again = await visa.reverse(reverse_body())
    assert (again.body["actionCode"], again.body["originalActionCode"]) == ("94", "00")


async def test_rules_select_by_payout_and_operation(visa: VisaClient) -> None:
    """Selectable by operation, sender reference and client transaction id; the first rule that fires wins."""
    await visa.faults(
        rule("500", sender_reference=push_body(1)["senderReference"]),
        rule("503", client_transaction_id="c2"),
        rule("504", "reverse"),
    )
    assert (await visa.push(push_body(1), X_Client_Transaction_ID="c2")).status == 500
    assert (await visa.push(push_body(2), X_Client_Transaction_ID="c2")).status == 503
    assert (await visa.push(push_body(3), X_Client_Transaction_ID="c3")).status == 200


async def test_times_count_per_payout_or_in_total(visa: VisaClient) -> None:
    """times is per payout; with scope total it is over all of them."""
    await visa.faults(rule("429", times=1))
    assert [(await visa.push(push_body(n))).status for n in (1, 1, 2, 2)] == [429, 200, 429, 200]
    await visa.faults(rule("429", times=1, scope="total"))
    assert [(await visa.push(push_body(n))).status for n in (3, 3, 4, 4)] == [429, 200, 200, 200]


async def test_the_same_seed_draws_the_same_faults_in_any_order(visa: VisaClient) -> None:
    """Seeded: the draw depends on seed, rule and payout alone, so concurrency does not change it."""

    async def hit(numbers: list[int], seed: int) -> set[int]:
        await visa.faults(rule("503", probability=0.3), seed=seed)
        answers = await asyncio.gather(*(visa.push(push_body(n)) for n in numbers))
        return {n for n, answer in zip(numbers, answers, strict=True) if answer.status == 503}

    numbers = list(range(1, 61))
    first = await hit(numbers, seed=7)
    assert first == await hit(numbers[::-1], seed=7)
    assert first != await hit(numbers, seed=8)
    assert 5 <= len(first) <= 35


INVALID_PLANS: list[tuple[dict[str, Any], str]] = [
    ({"rules": [{"operation": "push"}]}, "fault"),
    ({"rules": [rule("explode")]}, "known are"),
    ({"rules": [rule("500", "pull")]}, "operation"),
    ({"rules": [rule("query_lag", "push")]}, "query_lag"),
    ({"rules": [rule("late_202", "query")]}, "late_202"),
    ({"rules": [rule("500", probability=1.5)]}, "probability"),
    ({"rules": [rule("500", times=0)]}, "times"),
    ({"rules": [rule("500", sender="x")]}, "sender"),
    ({"rules": [rule("refuse", sender_reference="x")]}, "sender_reference"),
    ({"rules": [rule("refuse_connections")]}, "refuse_connections"),
    ({"rules": [rule("refuse_connections", "connect", times=1)]}, "only seconds"),
    ({"rules": [rule("500", "connect")]}, "500"),
    ({"rules": [rule("500", "query", client_transaction_id="x")]}, "client_transaction_id"),
    ({"seed": "x"}, "seed"),
    ({"sneed": 1}, "sneed"),
]


async def test_a_plan_that_is_not_valid_is_refused_and_the_old_one_stays(visa: VisaClient) -> None:
    """400 says what is wrong."""
    await visa.faults(rule("500"))
    for plan, word in INVALID_PLANS:
        response = await visa.admin.put("/sandbox/faults", json=plan)
        assert (plan, response.status_code) == (plan, 400)
        assert word in response.json()["error"]
    assert (await visa.admin.put("/sandbox/faults", content=b"nothing")).status_code == 400
    assert (await visa.admin.get("/sandbox/faults")).json()["rules"][0]["fault"] == "500"


async def test_a_plan_can_be_read_and_removed(visa: VisaClient) -> None:
    """GET shows the plan and how often each rule fired; DELETE ends it."""
    await visa.faults(rule("500"), rule("503"), seed=3)
    await visa.push(push_body())
    shown = (await visa.admin.get("/sandbox/faults")).json()
    assert (shown["seed"], shown["fired"]) == (3, [1, 0])
    assert (await visa.admin.delete("/sandbox/faults")).json()["rules"] == []
    assert (await visa.push(push_body())).status == 200


async def test_the_attempt_log_tells_what_was_answered_and_why(visa: VisaClient) -> None:
    """Every request is logged once: numbers, client id, status answered (none if silent), fault."""
    await visa.faults(rule("429", times=1, scope="total"), rule("effect_then_reset", times=1, scope="total"))
    await visa.push(push_body(1, APPROVED_CARD), X_Client_Transaction_ID="c1")
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await visa.push(push_body(), X_Client_Transaction_ID="c1")
    await visa.push(push_body(), X_Client_Transaction_ID="c1")
    await visa.push(push_body(2, systemsTraceAuditNumber=1))
    await visa.push(push_body(3), X_Transaction_Timeout_MS="1")
    await visa.query(push_body())
    await visa.status("unknown")

    async def all_logged() -> list[dict[str, Any]]:
        logged = await visa.requests()
        return logged if len(logged) >= 7 else []

    logged = await eventually(all_logged)
    assert [(line["operation"], line["http_status"], line["fault"]) for line in logged] == [
        ("push", 429, "429"),
        ("push", None, "effect_then_reset"),
        ("push", 200, None),
        ("push", 400, None),
        ("push", 202, None),
        ("query", 200, None),
        ("status", 404, None),
    ]
    assert {line["client_transaction_id"] for line in logged[:3]} == {"c1"}
    assert {(line["stan"], line["rrn"], line["id_code"], line["terminal_id"]) for line in logged[:3]} == {
        ("100001", "603112000000", "ACME", "T1")
    }
