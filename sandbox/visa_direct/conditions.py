"""The fields of a push that are needed only for some: by country pair, business application and card (Visa's OpenAPI).

Where a payment crosses a border is decided by the country of the card's issuer. ``test_cards.yaml`` gives some cards
one; for others it is the recipient's country if the request names it, else the acquirer's own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sandbox.visa_direct.messages import Address, PushRequest, alpha3
from sandbox.visa_direct.refusal import VALIDATION_ERROR, Refusal

# Visa's published table of business application ids.
MONEY_TRANSFERS: Final = frozenset({"AA", "BB", "BI", "FT", "MI", "PP", "WT"})
DISBURSEMENTS: Final = frozenset({"FD", "GD", "MD", "PD"})
PREPAID_LOAD: Final = "TU"
CARD_BILL: Final = "CP"
OTHER_APPLICATIONS: Final = frozenset({"BP", "CD", "CI", "CO", "GP", "LO", "MP", "OG", "PS", "RP"})
APPLICATIONS: Final = MONEY_TRANSFERS | DISBURSEMENTS | OTHER_APPLICATIONS | {PREPAID_LOAD, CARD_BILL}
PURPOSE_COUNTRIES: Final = frozenset({"ARG", "BGD", "EGY", "IND"})
PURPOSE_EXEMPT: Final = frozenset({"CI", "CO", "MP"})
NORTH_AMERICA: Final = frozenset({"USA", "CAN"})
US_TERRITORIES: Final = frozenset({"ASM", "GUM", "MNP", "PRI", "VIR"})
NAMES_BUSINESS: Final = frozenset({"AUS", "CAN"})
CREDIT_OR_MOBILE_MONEY: Final = frozenset({"01", "06"})
TAX_REBATE: Final = "5120"


@dataclass(frozen=True, slots=True)
class Route:
    """What a push is and between which countries (alpha-3)."""

    application: str
    acquirer: str
    issuer: str
    acceptor: str
    on_visa: bool

    @property
    def crosses_border(self) -> bool:
        return self.issuer != self.acquirer

    @property
    def within(self) -> str | None:
        """The country of a domestic payment."""
        return None if self.crosses_border else self.acquirer

    @property
    def is_money_transfer(self) -> bool:
        return self.application in MONEY_TRANSFERS

    @property
    def is_transfer_or_disbursement(self) -> bool:
        return self.application in MONEY_TRANSFERS | DISBURSEMENTS

    @property
    def is_prepaid_or_bill(self) -> bool:
        return self.application in (PREPAID_LOAD, CARD_BILL)

    @property
    def names_sender(self) -> bool:
        if self.within == "COL" or not self.on_visa:
            return False
        return self.is_transfer_or_disbursement or self.application == PREPAID_LOAD

    @property
    def places_sender(self) -> bool:
        if self.is_transfer_or_disbursement:
            return self.crosses_border or self.within == "USA"
        return self.is_prepaid_or_bill and self.within == "USA"

    @property
    def touches_canada(self) -> bool:
        return self.crosses_border and "CAN" in (self.acquirer, self.issuer)

    @property
    def needs_source_of_funds(self) -> bool:
        return self.is_transfer_or_disbursement or (self.is_prepaid_or_bill and self.within != "USA")

    @property
    def needs_purpose(self) -> bool:
        if self.issuer in PURPOSE_COUNTRIES:
            return self.application not in PURPOSE_EXEMPT
        return (self.issuer == "CHL" and self.application == "FD") or (
            self.issuer == "COL" and self.application in ("AA", "PP")
        )


def check_acceptor(address: Address) -> None:
    """State, county and postal code of a card acceptor. Raises Refusal (400, 3001) that names the fields."""
    _refuse(list(_acceptor_problems(address)))


def check_push(message: PushRequest, issuer_country: str | None, acquirers: Mapping[str, str]) -> None:
    """Raises Refusal (400, 3001) that names the fields which this push needs or must not have.

    ``issuer_country`` is alpha-3, None if the card's is not known; ``acquirers`` are the BINs of this project, each
    with the numeric country it is enrolled for.
    """
    route = route_of(message, issuer_country)
    found = [
        *_enrolment_problems(message, acquirers),
        *_acceptor_problems(message.card_acceptor.address),
        *_missing(message, route, issuer_country),
        *_wrong(message, route),
    ]
    _refuse(found)


def route_of(message: PushRequest, issuer_country: str | None) -> Route:
    """The route of a push whose card's issuer sits in ``issuer_country`` (alpha-3), if that is known."""
    acquirer = alpha3(message.acquirer_country_code)
    named = message.recipient_country_code
    card = message.recipient_primary_account_number
    return Route(
        application=message.business_application_id,
        acquirer=acquirer,
        issuer=issuer_country or (alpha3(named) if named else acquirer),
        acceptor=alpha3(message.card_acceptor.address.country),
        on_visa=card is None or card.startswith("4"),
    )


def _enrolment_problems(message: PushRequest, acquirers: Mapping[str, str]) -> Iterator[str]:
    country = acquirers.get(message.acquiring_bin)
    if country is None:
        yield "acquiringBin is not enrolled for this project"
    elif country != message.acquirer_country_code.zfill(3):
        yield "acquirerCountryCode is not the country that acquiringBin is enrolled for"


def _acceptor_problems(address: Address) -> Iterator[str]:
    country = alpha3(address.country)
    longest = 9 if country in NORTH_AMERICA | US_TERRITORIES else 8
    if address.zip_code is not None and len(address.zip_code) > longest:
        yield f"cardAcceptor.address.zipCode has at most {longest} characters in this country"
    if country not in NORTH_AMERICA:
        return
    needed = {"state": address.state, "zipCode": address.zip_code}
    if country == "USA":
        needed["county"] = address.county
    for name, value in needed.items():
        if not value:
            yield f"cardAcceptor.address.{name} is needed in this country"


def _missing(message: PushRequest, route: Route, issuer_country: str | None) -> Iterator[str]:
    sender_country = alpha3(message.sender_country_code) if message.sender_country_code else None
    needed = {
        "cardAcceptor.legalBusinessName": (
            message.card_acceptor.legal_business_name,
            route.is_money_transfer or (route.crosses_border and route.issuer in NAMES_BUSINESS),
        ),
        "senderReference": (message.sender_reference, route.application in DISBURSEMENTS),
        "senderName": (message.sender_name, route.names_sender),
        "senderAddress": (message.sender_address, route.places_sender),
        "senderCity": (message.sender_city, route.places_sender or route.within == "COL"),
        "senderCountryCode": (message.sender_country_code, route.places_sender),
        "senderStateCode": (message.sender_state_code, sender_country in NORTH_AMERICA),
        "senderPostalCode": (
            message.sender_postal_code,
            route.acceptor in NORTH_AMERICA or route.within == "COL",
        ),
        "recipientCountryCode": (message.recipient_country_code, route.touches_canada or route.within == "COL"),
        "recipientState": (
            message.recipient_state,
            (route.touches_canada or not route.on_visa) and route.issuer in NORTH_AMERICA,
        ),
        "recipientName": (
            message.recipient_name,
            route.is_money_transfer and route.crosses_border and route.on_visa,
        ),
        "recipientCardExpiryDate": (message.recipient_card_expiry_date, issuer_country == "USA"),
        "purposeOfPayment": (message.purpose_of_payment, route.needs_purpose),
        "sourceOfFundsCode": (message.source_of_funds_code, route.needs_source_of_funds),
    }
    for name, (value, is_needed) in needed.items():
        if is_needed and not value:
            yield f"{name} is needed for this kind of payment between these countries"


def _wrong(message: PushRequest, route: Route) -> Iterator[str]:
    if route.application not in APPLICATIONS:
        yield "businessApplicationId is not one of the published values"
    if route.within == "COL" and message.sender_name:
        yield "senderName is not for domestic payments in Colombia"
    if len(message.sender_postal_code or "") > (16 if route.within == "COL" else 10):
        yield "senderPostalCode is too long for this country"
    if route.application == CARD_BILL and message.source_of_funds_code in CREDIT_OR_MOBILE_MONEY:
        yield "sourceOfFundsCode of a card bill payment is neither 01 nor 06"
    if message.message_reason_code not in (None, TAX_REBATE) or (
        message.message_reason_code and route.application != "FD"
    ):
        yield "messageReasonCode of a push is 5120, with businessApplicationId FD"


def _refuse(found: list[str]) -> None:
    if found:
        raise Refusal(400, VALIDATION_ERROR, f"Invalid input found: {'; '.join(found)}")
