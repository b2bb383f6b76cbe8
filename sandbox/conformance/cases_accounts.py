"""Account and wallet payouts: send, query, statuses, what comes after. Accounts TEST... are the stand-in's own."""

from typing import Final

from sandbox.conformance.cases_push import DAY_SECONDS
from sandbox.conformance.client import Answer, Body, Client, changed, holds, same
from sandbox.conformance.suite import case

PAYOUTS: Final = "/visapayouts/v3/payouts"
CANCEL: Final = "/visapayouts/v3/payouts/cancel"
VALIDATE: Final = "/visapayouts/v3/payouts/validate"
STATUSES: Final = {
    "PAYMENT_RECEIVED",
    "AWAITING_INFORMATION",
    "PAYMENT_SENT",
    "PAYMENT_DELIVERED",
    "PENDING_CANCELLATION",
    "CANCELLED",
    "RETURNED",
    "REJECTED",
    "DELIVERED_TO_SCHEME",
    "DELIVERED_TO_RECIPIENT_BANK",
}
# The knob `accounts_pace_seconds` while a case steps through statuses by the clock.
PACE_SECONDS: Final = 100.0


def payout_body(visa: Client, account: str = "TESTDELIVER1", **changes: object) -> Body:
    """To a bank account, complete."""
    body: Body = {
        "payoutMethod": "B",
        "transactionDetail": {
            "initiatingPartyId": int(visa.target.initiating_party_id),
            "businessApplicationId": "FD",
            "clientReferenceId": visa.reference(),
            "transactionAmount": 25.5,
            "transactionCurrencyCode": "USD",
            "senderSourceOfFunds": "05",
        },
        "senderDetail": {"name": "Conformance Suite", "address": {"country": "USA"}},
        "recipientDetail": {
            "name": "Rosalind Example",
            "bank": {"accountNumber": account, "countryCode": "GBR", "currencyCode": "GBP", "bankName": "Example Bank"},
        },
    }
    return changed(body, changes)


def wallet_body(visa: Client, **changes: object) -> Body:
    """To a wallet."""
    wallet = {"accountNumber": "TESTDELIVER2", "operatorName": "Example", "countryCode": "KEN", "currencyCode": "KES"}
    named = {"payoutMethod": "W", "recipientDetail": {"name": "Rosalind Example", "wallet": wallet}}
    return changed(payout_body(visa), named | changes)


def reference_of(body: Body) -> str:
    reference: str = body["transactionDetail"]["clientReferenceId"]
    return reference


async def asked(visa: Client, name: str, by: str = "CLIENT_REFERENCE_ID") -> Answer:
    return await visa.get(PAYOUTS, id=name, idType=by, initiatingPartyId=visa.target.initiating_party_id)


async def life(visa: Client, body: Body, steps: int) -> list[str]:
    """The statuses of a payout, the first at its send, each a step of the clock later."""
    await visa.turn(accounts_pace_seconds=PACE_SECONDS)
    answer = await visa.post(PAYOUTS, body)
    same("status of the send", answer.status, 200)
    seen = [answer["status"]]
    for step in range(1, steps + 1):
        ahead = step * PACE_SECONDS + PACE_SECONDS / 2
        await visa.turn(accounts_pace_seconds=PACE_SECONDS, clock_ahead_seconds=ahead)
        visa.ahead_seconds = ahead
        seen.append((await asked(visa, reference_of(body)))["status"])
    return seen


@case("F-107", "money")
async def a_send(visa: Client) -> None:
    for body in (payout_body(visa), wallet_body(visa)):
        answer = await visa.post(PAYOUTS, body)
        holds("200 or 202", answer.status in (200, 202))
        if answer.status == 200:
            same("status", answer["status"], "PAYMENT_RECEIVED")
        holds("Visa's own name is there", bool(answer["payoutId"]))
    if visa.target.admin_url is None:
        return
    await visa.faults({"operation": "account_send", "fault": "late_202", "seconds": 0.3})
    body = payout_body(visa)
    same("status", (await visa.post(PAYOUTS, body)).status, 202)

    async def known() -> bool:
        return (await asked(visa, reference_of(body))).status == 200

    await visa.eventually(known)


@case("F-108", "stand_in")
async def a_query(visa: Client) -> None:
    body = payout_body(visa)
    payout_id = (await visa.post(PAYOUTS, body))["payoutId"]
    for name, by in ((reference_of(body), "CLIENT_REFERENCE_ID"), (payout_id, "PAYOUT_ID")):
        answer = await asked(visa, name, by)
        same("status and name", (answer.status, answer["payoutId"]), (200, payout_id))
    detail = answer["transactionDetail"]
    same("reference and amount", (detail["clientReferenceId"], detail["transactionAmount"]), (reference_of(body), 25.5))
    same("under another reference", (await asked(visa, visa.reference())).status, 404)
    same("with another idType", (await asked(visa, payout_id, "NAME")).status, 400)
    same("without a party", (await visa.get(PAYOUTS, id=payout_id, idType="PAYOUT_ID")).status, 400)
    for days, status in ((179, 200), (181, 404)):
        await visa.pass_time(days * DAY_SECONDS)
        same(f"status after {days} days", (await asked(visa, payout_id, "PAYOUT_ID")).status, status)


@case("F-109", "stand_in")
async def a_send_without_an_answer(visa: Client) -> None:
    """The query knows what became of it; sending it again would be a second payout."""
    taken, lost = payout_body(visa), payout_body(visa)
    await visa.turn(accounts_pace_seconds=0)
    await visa.faults({"operation": "account_send", "fault": "effect_then_500"})
    same("status of the send", (await visa.post(PAYOUTS, taken)).status, 500)
    await visa.faults({"operation": "account_send", "fault": "500"})
    same("status of the send", (await visa.post(PAYOUTS, lost)).status, 500)
    await visa.faults()
    same("what took effect", (await asked(visa, reference_of(taken)))["status"], "PAYMENT_DELIVERED")
    same("what did not", (await asked(visa, reference_of(lost))).status, 404)
    await visa.post(PAYOUTS, taken)
    same("effects after a second send", await visa.effects(reference_of(taken)), 2)


@case("F-110", "stand_in")
async def the_ten_statuses(visa: Client) -> None:
    seen: set[str] = set()
    for account, steps in (("DELIVER", 4), ("AWAIT", 3), ("REJECT", 2), ("RETURN", 3)):
        seen |= set(await life(visa, payout_body(visa, f"TEST{account}1"), steps))
        await visa.reset()
    await visa.turn(accounts_pace_seconds=PACE_SECONDS)
    body = payout_body(visa, "TESTASKED1")
    await visa.post(PAYOUTS, body)
    seen.add((await visa.post(CANCEL, _cancellation(visa, body)))["status"])
    await visa.pass_time(2 * PACE_SECONDS)
    seen.add((await asked(visa, reference_of(body)))["status"])
    same("statuses", seen, STATUSES)


@case("F-111", "stand_in")
async def speed_and_funding(visa: Client) -> None:
    for account, speed, status in (
        ("DELIVER", "STANDARD", "FUNDED"),
        ("PREMIUM", "PREMIUM", "FUNDED"),
        ("UNFUNDED", "STANDARD", "NOT_FUNDED"),
        ("AGING", "STANDARD", "FUNDED_AGING"),
    ):
        answer = await visa.post(PAYOUTS, payout_body(visa, f"TEST{account}1"))
        found = (answer["payoutSpeed"], answer["fundingModel"], answer["fundingStatus"])
        same(f"of {account}", found, (speed, "PREFUNDED", status))


@case("F-112", "stand_in")
async def accepted_is_not_delivered(visa: Client) -> None:
    body = payout_body(visa, "TESTRETURN1")
    same("before delivery", (await life(visa, body, 3))[-1], "RETURNED")
    same("effects", await visa.effects(reference_of(body)), 0)
    await visa.reset()
    body = payout_body(visa, "TESTRETURNLATE1")
    statuses = await life(visa, body, 3)
    same("after delivery", statuses, ["PAYMENT_RECEIVED", "PAYMENT_SENT", "PAYMENT_DELIVERED", "RETURNED"])
    entries = [entry["operation"] for entry in await visa.entries(reference_of(body))]
    same("what moved", entries, ["account", "account_return"])


@case("F-113", "stand_in")
async def a_bad_payout(visa: Client) -> None:
    changes: list[Body] = [
        {"payoutMethod": "X"},
        {"recipientDetail.bank": None},
        {"senderDetail": None},
        {"transactionDetail.clientReferenceId": "A" * 36},
        {"transactionDetail.clientReferenceId": None},
        {"transactionDetail.initiatingPartyId": None},
        {"transactionDetail.transactionAmount": "25.555"},
        {"transactionDetail.transactionCurrencyCode": "XYZ"},
        {"transactionDetail.quoteId": "unknown"},
        {"recipientDetail.bank.accountNumber": "TESTREFUSED1"},
    ]
    for change in changes:
        answer = await visa.post(PAYOUTS, payout_body(visa, **change))
        what = next(iter(change))
        same(f"status and reason with another {what}", (answer.status, answer["reason"]), (400, "InvalidPayoutRequest"))
        detail = answer["details"][0]
        holds("the details have place and text", bool(detail["location"]) and bool(detail["message"]))
        holds("the code is 4xxx", len(str(detail["code"])) == 4 and str(detail["code"]).startswith("4"))
    same("status of a good one", (await visa.post(PAYOUTS, payout_body(visa))).status, 200)


@case("F-114", "stand_in")
async def too_many_sends(visa: Client) -> None:
    body = payout_body(visa)
    await visa.faults({"operation": "account_send", "fault": "429", "times": 1})
    same("status", (await visa.post(PAYOUTS, body)).status, 429)
    same("status of the query", (await asked(visa, reference_of(body))).status, 404)
    same("status later", (await visa.post(PAYOUTS, body)).status, 200)
    large = payout_body(visa, **{"senderDetail.note": "A" * 110_000})
    same("status of more than 100 KB", (await visa.post(PAYOUTS, large)).status, 413)


@case("F-115", "stand_in")
async def validate_and_cancel(visa: Client) -> None:
    await visa.turn(accounts_pace_seconds=PACE_SECONDS)
    body = payout_body(visa)
    same("status of the validation", (await visa.post(VALIDATE, body)).status, 200)
    same("it sends nothing", (await asked(visa, reference_of(body))).status, 404)
    bad = await visa.post(VALIDATE, payout_body(visa, "TESTREFUSED1"))
    same("status of a bad one", (bad.status, bad["reason"]), (400, "InvalidPayoutRequest"))
    await visa.post(PAYOUTS, body)
    same("status", (await visa.post(CANCEL, _cancellation(visa, body)))["status"], "PENDING_CANCELLATION")
    await visa.pass_time(10 * PACE_SECONDS)
    same("in the end", (await asked(visa, reference_of(body)))["status"], "CANCELLED")
    same("effects", await visa.effects(reference_of(body)), 0)
    await visa.reset()
    await visa.turn(accounts_pace_seconds=0)
    late = payout_body(visa)
    await visa.post(PAYOUTS, late)
    same("status when it is too late", (await visa.post(CANCEL, _cancellation(visa, late))).status, 400)
    same("of nothing", (await visa.post(CANCEL, _cancellation(visa, payout_body(visa)))).status, 404)


def _cancellation(visa: Client, body: Body) -> Body:
    party = int(visa.target.initiating_party_id)
    return {"id": reference_of(body), "idType": "CLIENT_REFERENCE_ID", "initiatingPartyId": party}
