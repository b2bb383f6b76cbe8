"""What gives a card pull back: reversal and adjustment. The pull is the originator's, so only the stand-in has one."""

from sandbox.conformance.cases_push import DAY_SECONDS, MARGIN_SECONDS, approved
from sandbox.conformance.client import ADJUSTMENT, REVERSE, Body, Client, holds, same
from sandbox.conformance.suite import case


async def handed_back(visa: Client, aft: Body) -> int:
    """How often money moved back under the pull's identifier."""
    page = await visa.admin("GET", "/sandbox/ledger?limit=5000")
    entries = page["entries"]
    while page["has_more"]:
        page = await visa.admin("GET", f"/sandbox/ledger?limit=5000&after={page['next_after']}")
        entries += page["entries"]
    return sum(
        entry["operation"] in ("reverse", "adjustment") and entry["money_moved"]
        for entry in entries
        if entry["transaction_identifier"] == aft["transactionIdentifier"]
    )


@case("F-087", "stand_in")
async def what_a_reversal_names(visa: Client) -> None:
    aft = await visa.fund()
    for name in ("", ".acquiringBin", ".approvalCode", ".systemsTraceAuditNumber", ".transmissionDateTime"):
        body = visa.reverse_body(aft, **{f"originalDataElements{name}": None})
        answer = await visa.post(REVERSE, body)
        same(f"status without originalDataElements{name}", (answer.status, answer.code), (400, "3001"))
    short = visa.reverse_body(aft, **{"originalDataElements.approvalCode": "98765"})
    same("status with an approval code of 5", (await visa.post(REVERSE, short)).status, 400)
    same("handed back", await handed_back(visa, aft), 0)
    answer = await visa.post(REVERSE, visa.reverse_body(aft))
    same("status and code", (answer.status, answer["actionCode"]), (200, "00"))
    same("handed back", await handed_back(visa, aft), 1)


@case("F-088", "stand_in")
async def a_reversal_repeats_the_pulls_numbers(visa: Client) -> None:
    aft = await visa.fund()
    stan, rrn = visa.numbers()
    changes: list[Body] = [
        {"systemsTraceAuditNumber": stan, "originalDataElements.systemsTraceAuditNumber": stan},
        {"retrievalReferenceNumber": rrn},
        {"transactionIdentifier": "300000000000001"},
    ]
    for change in changes:
        answer = await visa.post(REVERSE, visa.reverse_body(aft, **change))
        same("status and code with another number", (answer.status, answer["actionCode"]), (200, "25"))
    same("handed back", await handed_back(visa, aft), 0)
    answer = await visa.post(REVERSE, visa.reverse_body(aft))
    found = (answer["actionCode"], str(answer["transactionIdentifier"]))
    same("code and identifier", found, ("00", aft["transactionIdentifier"]))


@case("F-089", "stand_in")
async def a_reversal_within_a_day(visa: Client) -> None:
    young, old = await visa.fund(), await visa.fund()
    await visa.pass_time(DAY_SECONDS - MARGIN_SECONDS)
    same("code within a day", (await visa.post(REVERSE, visa.reverse_body(young)))["actionCode"], "00")
    await visa.pass_time(DAY_SECONDS + MARGIN_SECONDS)
    late = await visa.post(REVERSE, visa.reverse_body(old))
    holds("after a day it is declined", late["actionCode"] not in ("00", "10", "11"))
    same("handed back", await handed_back(visa, old), 0)


@case("F-090", "stand_in")
async def a_push_is_not_reversed(visa: Client) -> None:
    body = visa.push_body()
    answer = await approved(visa, body)
    as_if = visa.funding(
        stan=str(body["systemsTraceAuditNumber"]),
        rrn=body["retrievalReferenceNumber"],
        transactionIdentifier=str(answer["transactionIdentifier"]),
        approvalCode=answer["approvalCode"],
        amount=body["amount"],
    )
    same("code", (await visa.post(REVERSE, visa.reverse_body(as_if)))["actionCode"], "25")
    same("handed back", await handed_back(visa, as_if), 0)


@case("F-091", "stand_in")
async def what_a_reversal_needs(visa: Client) -> None:
    aft = await visa.fund()
    for name in ("senderPrimaryAccountNumber", "senderCurrencyCode", "merchantCategoryCode", "transactionIdentifier"):
        answer = await visa.post(REVERSE, visa.reverse_body(aft, **{name: None}))
        same(f"status without {name}", (answer.status, answer.code), (400, "3001"))
    same("handed back", await handed_back(visa, aft), 0)
    same("code with all of them", (await visa.post(REVERSE, visa.reverse_body(aft)))["actionCode"], "00")


@case("F-092", "stand_in")
async def an_adjustment_of_a_pull(visa: Client) -> None:
    aft = await visa.fund()
    for change in ({"messageReasonCode": None}, {"messageReasonCode": 9999}, {"transactionTypeCode": None}):
        answer = await visa.post(ADJUSTMENT, visa.adjustment_body(aft, **change))
        same(f"status with {change}", (answer.status, answer.code), (400, "3001"))
    same("handed back", await handed_back(visa, aft), 0)
    await visa.pass_time(40 * DAY_SECONDS)
    answer = await visa.post(ADJUSTMENT, visa.adjustment_body(aft))
    same("status and code at any age", (answer.status, answer["actionCode"]), (200, "00"))
    same("handed back", await handed_back(visa, aft), 1)


@case("F-093", "stand_in")
async def the_numbers_of_an_adjustment(visa: Client) -> None:
    aft = await visa.fund()
    for change in ({"systemsTraceAuditNumber": aft["stan"]}, {"retrievalReferenceNumber": aft["rrn"]}):
        answer = await visa.post(ADJUSTMENT, visa.adjustment_body(aft, **change))
        holds("the pull's numbers are declined", answer["actionCode"] not in ("00", "10", "11"))
    other = visa.adjustment_body(aft, transactionIdentifier="300000000000001")
    same("code with another identifier", (await visa.post(ADJUSTMENT, other))["actionCode"], "25")
    same("handed back", await handed_back(visa, aft), 0)
    body = visa.adjustment_body(aft)
    await visa.post(ADJUSTMENT, body)
    same("code in the query", [row["actionCode"] for row in (await visa.query(body)).body], ["00"])


@case("F-094", "stand_in")
async def an_adjustment_twice(visa: Client) -> None:
    aft = await visa.fund()
    body = visa.adjustment_body(aft)
    codes = [(await visa.post(ADJUSTMENT, body))["actionCode"] for _ in range(2)]
    same("codes", codes, ["00", "00"])
    same("handed back", await handed_back(visa, aft), 2)
