"""A push and what becomes of it: answers, 202, 303, duplicates, failures, the numbers of Visa's sandbox."""

import asyncio
import re
from typing import Final

import httpx

from sandbox.conformance.client import APPROVED_CARD, PUSH, Answer, Body, Client, changed, holds, same
from sandbox.conformance.suite import case

DAY_SECONDS: Final = 24 * 3600
MARGIN_SECONDS: Final = 60
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def approved(visa: Client, body: Body, **headers: str) -> Answer:
    """A push that is approved, or Mismatch."""
    answer = await visa.push(body, **headers)
    same("status", answer.status, 200)
    same("actionCode", answer["actionCode"], "00")
    same("digits of transactionIdentifier", len(str(answer["transactionIdentifier"])), 15)
    return answer


async def refused(visa: Client, what: str, body: Body) -> None:
    """400 with 3001, and on the stand-in nothing moved."""
    answer = await visa.push(body)
    same(f"status with {what}", (answer.status, answer.code), (400, "3001"))
    if visa.target.admin_url is not None and isinstance(body.get("senderReference"), str):
        same(f"effects with {what}", await visa.effects(body["senderReference"][:16] or "-"), 0)


@case("F-002", "money")
async def the_path_of_a_push(visa: Client) -> None:
    await approved(visa, visa.push_body())


@case("F-041", "money")
async def the_fields_of_an_answer(visa: Client) -> None:
    answer = await approved(visa, visa.push_body())
    holds("transactionIdentifier is a number", isinstance(answer["transactionIdentifier"], int))
    same("length of actionCode", len(answer["actionCode"]), 2)
    same("length of responseCode", len(answer["responseCode"]), 1)
    holds("transmissionDateTime has milliseconds and Z", bool(_TIME.fullmatch(answer["transmissionDateTime"])))


@case("F-042", "stand_in")
async def the_response_code_is_who_answered(visa: Client) -> None:
    """The same source for an approval and a decline, different sources for approvals."""
    issuer = await visa.push(visa.push_body("tok_approve_1"))
    declined = await visa.push(visa.push_body("tok_decline_05"))
    network = await visa.push(visa.push_body("tok_source_4"))
    found = [(answer["actionCode"], answer["responseCode"]) for answer in (issuer, declined, network)]
    same("codes", found, [("00", "5"), ("05", "5"), ("00", "4")])


@case("F-043", "money")
async def the_optional_fields_of_an_answer(visa: Client) -> None:
    body = visa.push_body()
    answer = await approved(visa, body)
    holds("approvalCode has at most 6 characters", len(answer.body.get("approvalCode", "")) <= 6)
    holds("last4ofPAN is a number", isinstance(answer.body.get("last4ofPAN", 0), int))
    rrn = answer.body.get("retrievalReferenceNumber", body["retrievalReferenceNumber"])
    same("RRN", rrn, body["retrievalReferenceNumber"])


@case("F-044", "stand_in")
async def further_fields_disturb_nothing(visa: Client) -> None:
    await visa.faults({"operation": "push", "fault": "every_field"})
    answer = await approved(visa, visa.push_body())
    flags = answer["settlementFlags"]
    same("a flag", flags["settlementResponsibilityFlag"], "true")
    holds("there are many more", {"persistentFX", "prepaidBalance", "settlementInfo", "networkId"} <= set(answer.body))


@case("F-045", "money")
async def the_original_code_is_for_duplicates(visa: Client) -> None:
    body = visa.push_body()
    holds("the first answer has none", "originalActionCode" not in (await approved(visa, body)).body)
    same("of the second", (await visa.push(body))["originalActionCode"], "00")


@case("F-046", "money")
async def a_decline_is_a_200(visa: Client) -> None:
    answer = await visa.push(visa.push_body("4003974278332156"))
    same("status", answer.status, 200)
    holds("actionCode is no approval", answer["actionCode"] not in ("00", "10", "11"))


@case("F-047", "stand_in")
async def work_that_outlasts_the_time_out(visa: Client) -> None:
    await visa.turn(latency_seconds=0.6)
    answer = await visa.push(visa.push_body(), X_Transaction_Timeout_MS="100")
    same("status", answer.status, 202)
    holds("statusIdentifier is text", isinstance(answer["statusIdentifier"], str))


@case("F-048", "stand_in")
async def after_a_202_the_work_goes_on(visa: Client) -> None:
    body = visa.push_body()
    await visa.turn(latency_seconds=0.6)
    accepted = await visa.push(body, X_Transaction_Timeout_MS="100")
    same("effects at the 202", await visa.effects(body["senderReference"]), 0)
    settled = await visa.settled(f"{PUSH}/{accepted['statusIdentifier']}")
    same("actionCode in the end", settled["actionCode"], "00")
    same("effects in the end", await visa.effects(body["senderReference"]), 1)


@case("F-050", "stand_in")
async def the_same_again_while_in_flight(visa: Client) -> None:
    body = visa.push_body()
    client_id = visa.reference()
    async with visa.in_flight(body, 1.0, X_Client_Transaction_ID=client_id) as first:
        twin = await visa.push(body, X_Client_Transaction_ID=client_id)
        same("status", twin.status, 303)
        where = httpx.URL(twin.headers["Location"]).path
        other = changed(body, {"systemsTraceAuditNumber": visa.numbers()[0]})
        task = asyncio.create_task(visa.push(other, X_Client_Transaction_ID=client_id))
        original = await first
    same("status of other details under the id", (await task).status, 200)
    same("what the URL gives", (await visa.settled(where)).body, original.body)
    same("effects", await visa.effects(body["senderReference"]), 2)


@case("F-051", "money")
async def what_does_not_validate(visa: Client) -> None:
    await approved(visa, visa.push_body())
    await refused(visa, "no amount", visa.push_body(amount=None))


@case("F-056", "stand_in")
async def too_many_calls(visa: Client) -> None:
    body = visa.push_body()
    await visa.faults({"operation": "push", "fault": "429", "retry_after": 7, "times": 1})
    answer = await visa.push(body)
    same("status", (answer.status, answer.headers.get("Retry-After")), (429, "7"))
    same("effects", await visa.effects(body["senderReference"]), 0)
    await approved(visa, body)


@case("F-057", "stand_in")
async def an_internal_error(visa: Client) -> None:
    await _errors(visa, 500)


@case("F-058", "stand_in")
async def not_available(visa: Client) -> None:
    await _errors(visa, 503)
    await _errors(visa, 504)


async def _errors(visa: Client, status: int) -> None:
    """The same status without and with an effect: it says nothing about the outcome."""
    for fault, effects in ((str(status), 0), (f"effect_then_{status}", 1)):
        body = visa.push_body()
        await visa.faults({"operation": "push", "fault": fault})
        same("status", (await visa.push(body)).status, status)
        same(f"effects of {fault}", await visa.effects(body["senderReference"]), effects)


@case("F-059", "stand_in")
async def the_time_out_header(visa: Client) -> None:
    await visa.turn(latency_seconds=0.6)
    found = [
        (await visa.push(visa.push_body(), X_Transaction_Timeout_MS=header)).status
        for header in ("100", "30000", "30001")
    ]
    same("statuses for 100, 30000, 30001", found, [202, 200, 200])


@case("F-060", "header_forcing", "money")
async def a_forced_202(visa: Client) -> None:
    same("status", (await visa.push(visa.push_body(), X_Transaction_Timeout_MS="1")).status, 202)


@case("F-061", "stand_in")
async def a_client_id_is_used_again(visa: Client) -> None:
    client_id = visa.reference()
    await approved(visa, visa.push_body(), X_Client_Transaction_ID=client_id)
    await visa.pass_time(DAY_SECONDS + MARGIN_SECONDS)
    await approved(visa, visa.push_body(), X_Client_Transaction_ID=client_id)


@case("F-062", "money")
async def correlation_ids_are_taken(visa: Client) -> None:
    await approved(visa, visa.push_body(), x_correlation_id=visa.reference(), ex_correlation_id=visa.reference())


@case("F-065", "money")
async def the_same_five_are_a_duplicate(visa: Client) -> None:
    body = visa.push_body()
    first = await approved(visa, body)
    again = await visa.push(body)
    found = (again.status, again["actionCode"], again["originalActionCode"], again["transactionIdentifier"])
    same("the second answer", found, (200, "94", "00", first["transactionIdentifier"]))
    if visa.target.admin_url is not None:
        same("effects", await visa.effects(body["senderReference"]), 1)


@case("F-066", "money")
async def the_duplicate_of_a_decline(visa: Client) -> None:
    body = visa.push_body("4003974278332156")
    declined = (await visa.push(body))["actionCode"]
    again = await visa.push(body)
    same("codes", (again["actionCode"], again["originalActionCode"]), ("94", declined))


@case("F-067", "money")
async def another_of_the_five_is_another_payment(visa: Client) -> None:
    body = visa.push_body()
    first = await approved(visa, body)
    stan, rrn = visa.numbers()
    changes: list[Body] = [
        {"systemsTraceAuditNumber": stan},
        {"retrievalReferenceNumber": rrn},
        {"cardAcceptor.idCode": "CONFORMANCE02"},
        {"cardAcceptor.terminalId": "CONF0002"},
    ]
    for change in changes:
        other = await approved(visa, changed(body, change))
        holds(f"another {next(iter(change))} has its own identifier", other.body != first.body)
        holds("the identifiers differ", other["transactionIdentifier"] != first["transactionIdentifier"])


@case("F-068", "stand_in")
async def what_was_not_found_is_sent_again(visa: Client) -> None:
    """The query does not show it yet, so it is sent again: one effect all the same."""
    body = visa.push_body()
    await visa.turn(query_lag_seconds=3600)
    await approved(visa, body)
    same("rows", (await visa.query(body)).body, [])
    again = await visa.push(body)
    same("codes", (again["actionCode"], again["originalActionCode"]), ("94", "00"))
    same("effects", await visa.effects(body["senderReference"]), 1)


@case("F-069", "stand_in")
async def both_forms_of_a_202(visa: Client) -> None:
    answer = await visa.push(visa.push_body(), X_Transaction_Timeout_MS="1")
    holds("an object", isinstance(answer["statusIdentifier"], str))
    await visa.turn(accepted_body="text")
    bare = await visa.push(visa.push_body(), X_Transaction_Timeout_MS="1")
    holds("bare text", isinstance(bare.body, str) and not bare.encrypted)
    same("status of the bare identifier's URL", (await visa.settled(f"{PUSH}/{bare.body}")).status, 200)


@case("F-070", "stand_in")
async def headers_of_a_202(visa: Client) -> None:
    await visa.turn(accepted_headers="location")
    answer = await visa.push(visa.push_body(), X_Transaction_Timeout_MS="1")
    same("Location", answer.headers.get("Location"), f"{PUSH}/{answer['statusIdentifier']}")
    await visa.turn(accepted_headers="link")
    answer = await visa.push(visa.push_body(), X_Transaction_Timeout_MS="1")
    holds("Link has the URL", f"{PUSH}/{answer['statusIdentifier']}" in answer.headers.get("Link", ""))


@case("F-049", "stand_in")
async def the_status_url_is_good_for_a_day(visa: Client) -> None:
    accepted = await visa.push(visa.push_body(), X_Transaction_Timeout_MS="1")
    path = f"{PUSH}/{accepted['statusIdentifier']}"
    first = await visa.settled(path)
    await visa.pass_time(DAY_SECONDS - MARGIN_SECONDS)
    same("after almost a day", (await visa.get(path)).body, first.body)
    await visa.pass_time(DAY_SECONDS + MARGIN_SECONDS)
    same("status after a day", (await visa.get(path)).status, 404)


@case("F-071", "header_forcing", "money")
async def the_fields_of_a_status(visa: Client) -> None:
    body = visa.push_body()
    accepted = await visa.push(body, X_Transaction_Timeout_MS="1")
    identifier = accepted["statusIdentifier"] if isinstance(accepted.body, dict) else accepted.body.strip()
    settled = await visa.settled(f"{PUSH}/{identifier}")
    same("status", settled.status, 200)
    needed = {"transactionIdentifier", "actionCode", "responseCode", "transmissionDateTime"}
    holds("it has the fields of a POST's answer", needed <= set(settled.body))
    same("the same again", (await visa.get(f"{PUSH}/{identifier}")).body, settled.body)


@case("F-072", "stand_in")
async def a_status_while_the_work_goes_on(visa: Client) -> None:
    await visa.turn(latency_seconds=1.0)
    accepted = await visa.push(visa.push_body(), X_Transaction_Timeout_MS="50")
    status = await visa.get(f"{PUSH}/{accepted['statusIdentifier']}")
    same("status at once", (status.status, status["statusIdentifier"]), (202, accepted["statusIdentifier"]))


CODES: Final = [
    "01",
    "02",
    "03",
    "04",
    "05",
    "06",
    "07",
    "10",
    "11",
    "12",
    "13",
    "14",
    "15",
    "19",
    "21",
    "25",
    "28",
    "39",
    "41",
    "43",
    "46",
    "51",
    "52",
    "53",
    "54",
    "57",
    "58",
    "59",
    "61",
    "62",
    "63",
    "64",
    "65",
    "70",
    "74",
    "75",
    "76",
    "78",
    "79",
    "80",
    "81",
    "82",
    "85",
    "86",
    "91",
    "92",
    "93",
    "96",
    "1A",
    "5C",
    "6P",
    "9G",
    "B1",
    "N0",
    "N3",
    "N4",
    "N7",
    "N8",
    "P5",
    "P6",
    "Q1",
    "R0",
    "R1",
    "R2",
    "R3",
    "Z3",
    "Z5",
    "Z6",
]


@case("F-116", "stand_in")
async def any_action_code_may_come(visa: Client) -> None:
    for code in CODES:
        answer = await visa.push(visa.push_body(f"tok_code_{code}"))
        same("status and code", (answer.status, answer["actionCode"]), (200, code))


@case("F-117", "stand_in")
async def who_may_answer(visa: Client) -> None:
    """7 and 8 are a reversal's; 8 is shown there."""
    for token, source in (("0", "0"), ("1", "1"), ("2", "2"), ("4", "4"), ("b", "B"), ("c", "C"), ("h", "H")):
        same("source", (await visa.push(visa.push_body(f"tok_source_{token}")))["responseCode"], source)
    same("the issuer", (await visa.push(visa.push_body("tok_approve_1")))["responseCode"], "5")
    same("the network", (await visa.push(visa.push_body("tok_code_91")))["responseCode"], "V")


@case("F-126", "money")
async def the_numbers_of_the_sandbox(visa: Client) -> None:
    known = {APPROVED_CARD: "00", "4060320000000127": "00", "4957030420210496": "65"}
    for number, code in known.items():
        same(f"actionCode of ...{number[-4:]}", (await visa.push(visa.push_body(number)))["actionCode"], code)
    same("approvalCode", (await visa.push(visa.push_body(APPROVED_CARD)))["approvalCode"], "21324K")
    declined = (await visa.push(visa.push_body("4003974278332156")))["actionCode"]
    holds("...2156 is declined", declined not in ("00", "10", "11"))
    for number in ("4104920120500001", "4104920120500002"):
        same(f"actionCode of ...{number[-4:]}", (await visa.push(visa.push_body(number)))["actionCode"], "00")


@case("F-127", "money")
async def the_numbers_of_the_samples(visa: Client) -> None:
    """Everybody uses them, so the answer may be a duplicate's."""
    body = visa.push_body(retrievalReferenceNumber="412770451018", systemsTraceAuditNumber="451018")
    answer = await visa.push(body)
    same("status", answer.status, 200)
    holds("approved, or a duplicate", answer["actionCode"] in ("00", "94"))
    same("digits of transactionIdentifier", len(str(answer["transactionIdentifier"])), 15)


@case("F-128", "stand_in")
async def numbers_after_a_day(visa: Client) -> None:
    """How long Visa keeps its duplicate key is not public; the client id is recycled after 24 hours."""
    body = visa.push_body()
    await approved(visa, body)
    await visa.pass_time(DAY_SECONDS - MARGIN_SECONDS)
    same("within a day", (await visa.push(body))["actionCode"], "94")
    await visa.pass_time(DAY_SECONDS + MARGIN_SECONDS)
    await approved(visa, body)
