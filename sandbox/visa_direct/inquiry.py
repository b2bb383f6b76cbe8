"""Questions before a payout, over HTTP: account attributes (FTAI), card validation (PAV), alias, exchange rates.

None of them moves money; each is in the attempt log with the numbers that it came with.
"""

import datetime
import secrets
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import product
from typing import Annotated, Any, Final, Literal, Self

from aiohttp import web
from pydantic import Field, StringConstraints, ValidationError, model_validator

from sandbox.visa_direct.cards import Attributes, Cards
from sandbox.visa_direct.effects import MONEY_MOVING
from sandbox.visa_direct.faults import RATES_PATH
from sandbox.visa_direct.gateway import Call, Gateway
from sandbox.visa_direct.knobs import Knobs
from sandbox.visa_direct.messages import (
    CURRENCIES,
    PROBLEMS_NAMED_MAX,
    Bin,
    CardAcceptorName,
    CardNumber,
    CountryNumber,
    CurrencyCode,
    Expiry,
    From1To99,
    Message,
    RetrievalReference,
    Stan,
    numeric,
    parse,
)
from sandbox.visa_direct.refusal import VALIDATION_ERROR, Refusal, error_response
from sandbox.visa_direct.settings import Settings

ATTRIBUTES_PATH: Final = "/paai/fundstransferattinq/v5/cardattributes/fundstransferinquiry"
VALIDATION_PATH: Final = "/pav/v1/cardvalidation"
ALIAS_PATH: Final = "/visaaliasdirectory/v1/resolve"

NO_REASON_TO_DECLINE: Final = "85"
EXPIRED: Final = "54"
CVV2_THAT_FAILS: Final = "000"
BAD_PARAMETERS: Final = "Missing or Invalid Request Parameters"
_FLAGS: Final = [
    f"{kind}{funds}{where}"
    for kind, funds, where in product(
        ("moneyTransfer", "nonMoneyTransfer", "onlineGambling"), ("PushFunds", "FastFunds"), ("Domestic", "CrossBorder")
    )
]
# What a US dollar buys. Invented, and constant: whoever tests a bound moves the rate by a fault.
PER_DOLLAR: Final = {
    "USD": Decimal(1),
    "AUD": Decimal("1.53"),
    "CAD": Decimal("1.37"),
    "EUR": Decimal("0.92"),
    "GBP": Decimal("0.79"),
    "INR": Decimal("83.1"),
    "JPY": Decimal("151.2"),
    "KWD": Decimal("0.307"),
    "MXN": Decimal("17.05"),
}
RATE_PLACES: Final = Decimal("0.000001")

Rate = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}(\.[0-9]{1,3})?$")]
Positive = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,4})?$")]


class AttributesRequest(Message):
    primary_account_number: CardNumber = Field(repr=False)
    systems_trace_audit_number: Stan
    retrieval_reference_number: RetrievalReference
    acquiring_bin: Bin | None = None
    acquirer_country_code: CountryNumber | None = None
    sharing_group_code: Annotated[str, StringConstraints(min_length=1, max_length=30)] | None = None
    account_type: Literal["DEBIT", "CREDIT"] | None = None


class AddressVerification(Message):
    postal_code: Annotated[str, StringConstraints(min_length=1, max_length=9)]
    street: From1To99 | None = None


class ValidationRequest(Message):
    acquiring_bin: Bin
    acquirer_country_code: CountryNumber
    primary_account_number: CardNumber = Field(repr=False)
    card_expiry_date: Expiry | None = None
    card_cvv2_value: Annotated[str, StringConstraints(pattern=r"^[0-9]{3,4}$")] | None = Field(
        default=None, repr=False, alias="cardCvv2Value"
    )
    address_verification_results: AddressVerification | None = None
    card_acceptor: CardAcceptorName | None = None
    card_holder_name_verification: dict[str, Any] | None = Field(default=None, repr=False)
    systems_trace_audit_number: Stan | None = None
    retrieval_reference_number: RetrievalReference | None = None


class AliasRequest(Message):
    alias: Annotated[str, StringConstraints(min_length=1, max_length=128)] = Field(repr=False)
    business_application_id: Literal["PP", "MP", "CO", "CI"]
    account_look_up: Literal["Y", "N"] | None = None


class Settlement(Message):
    currency_code: CurrencyCode


class AcquirerDetails(Message):
    bin: Bin
    settlement: Settlement


class RateRequest(Message):
    rate_product_code: Literal["A", "B", "BANK", "WALLET"]
    source_currency_code: CurrencyCode
    destination_currency_code: CurrencyCode
    source_amount: Positive | None = None
    destination_amount: Positive | None = None
    markup_rate: Rate | None = None
    acquirer_details: AcquirerDetails | None = None
    initiating_party_id: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,18}$")] | None = None
    quote_id_required: bool = False

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        amounts = sum(amount is not None for amount in (self.source_amount, self.destination_amount))
        if self.by_acquirer:
            if self.acquirer_details is None:
                raise ValueError("acquirerDetails is needed for products A and B")
            if amounts != 1:
                raise ValueError("one of sourceAmount and destinationAmount is needed")
            return self
        if self.initiating_party_id is None:
            raise ValueError("initiatingPartyId is needed for products BANK and WALLET")
        if amounts + self.quote_id_required != 1:
            raise ValueError("one of sourceAmount, destinationAmount and quoteIdRequired is needed")
        return self

    @property
    def by_acquirer(self) -> bool:
        return self.rate_product_code in ("A", "B")


class Inquiry:
    """The handlers and what they share."""

    def __init__(self, settings: Settings, knobs: Knobs, gateway: Gateway) -> None:
        self._acquirers = settings.acquirers
        self._knobs = knobs
        self._gateway = gateway
        self._cards = Cards.from_file()

    def add_routes(self, application: web.Application) -> None:
        application.router.add_post(ATTRIBUTES_PATH, self._attributes)
        application.router.add_post(VALIDATION_PATH, self._validation)
        application.router.add_post(ALIAS_PATH, self._alias)
        application.router.add_post(RATES_PATH, self._rates)

    async def _attributes(self, request: web.Request) -> web.StreamResponse:
        call = self._gateway.begin(request, "attributes")
        plaintext = await self._opened(request, call)
        if isinstance(plaintext, web.Response):
            return plaintext
        message = parse(AttributesRequest, plaintext)
        call.stan, call.rrn = message.systems_trace_audit_number, message.retrieval_reference_number
        number = message.primary_account_number
        return await self._answer(request, call, lambda: attributes(number, self._cards.attributes(number)))

    async def _validation(self, request: web.Request) -> web.StreamResponse:
        call = self._gateway.begin(request, "validation")
        plaintext = await self._opened(request, call)
        if isinstance(plaintext, web.Response):
            return plaintext
        message = parse(ValidationRequest, plaintext)
        call.acquiring_bin = message.acquiring_bin
        call.stan, call.rrn = message.systems_trace_audit_number, message.retrieval_reference_number
        return await self._answer(request, call, lambda: self._validated(message))

    def _validated(self, message: ValidationRequest) -> dict[str, object]:
        if self._acquirers.get(message.acquiring_bin) != message.acquirer_country_code.zfill(3):
            raise Refusal(400, VALIDATION_ERROR, "acquiringBin and acquirerCountryCode are not enrolled together")
        scenario = self._cards.scenario(message.primary_account_number)
        code = NO_REASON_TO_DECLINE if scenario.action_code in MONEY_MOVING else scenario.action_code
        now = datetime.datetime.fromtimestamp(self._gateway.now_ms() / 1000, datetime.UTC)
        if message.card_expiry_date is not None and message.card_expiry_date < f"{now:%Y-%m}":
            code = EXPIRED
        document: dict[str, object] = {
            "transactionIdentifier": f"2{secrets.randbelow(10**13):013d}1",
            "actionCode": code,
            "responseCode": "5",
        }
        if message.card_cvv2_value is not None:
            document["cvv2ResultCode"] = "N" if message.card_cvv2_value == CVV2_THAT_FAILS else "M"
        if message.address_verification_results is not None:
            document["addressVerificationResults"] = "Y" if message.address_verification_results.street else "Z"
        if message.card_holder_name_verification is not None:
            document["cardHolderNameVerificationResult"] = {"nameResult": "00", "nameMatchDecision": "01"}
        return document

    async def _alias(self, request: web.Request) -> web.StreamResponse:
        call = self._gateway.begin(request, "alias")
        plaintext = await self._opened(request, call)
        if isinstance(plaintext, web.Response):
            return plaintext
        message = parse(AliasRequest, plaintext)
        return await self._answer(request, call, lambda: self._resolved(message.alias))

    def _resolved(self, alias: str) -> dict[str, object]:
        found = self._cards.aliases.get(alias)
        if found is None:
            raise error_response(404, "ALIAS_NOT_FOUND", "The alias is not registered")
        return {
            "recipientPrimaryAccountNumber": found.card_number,
            "recipientName": found.name,
            "issuerName": found.issuer,
            "cardType": "Visa Classic",
            "country": found.country,
        }

    async def _rates(self, request: web.Request) -> web.StreamResponse:
        call = self._gateway.begin(request, "rates")
        plaintext = await self._opened(request, call)
        if isinstance(plaintext, web.Response):
            return plaintext
        return await self._answer(request, call, lambda: self._rate(plaintext))

    def _rate(self, plaintext: bytes) -> dict[str, object]:
        try:
            message = RateRequest.model_validate_json(plaintext)
        except ValidationError as error:
            raise error_response(
                400, VALIDATION_ERROR, "Missing or Invalid Request Parameters", _details(error)
            ) from None
        rate = exchange_rate(message.source_currency_code, message.destination_currency_code)
        if message.by_acquirer:
            return _by_acquirer(message, rate)
        document = _by_party(message, rate)
        if message.quote_id_required:
            expires = self._gateway.now_ms() / 1000 + self._knobs.now.quote_seconds
            at = datetime.datetime.fromtimestamp(int(expires), datetime.UTC)
            document["quoteId"] = f"Q{int(expires)}-{secrets.token_hex(8)}"
            document["quoteIdExpiryDateTime"] = f"{at:%Y-%m-%dT%H:%M:%S}.0Z"
        return document

    async def _opened(self, request: web.Request, call: Call) -> bytes | web.Response:
        """The plaintext of the body, or the answer of a fault."""
        dropped = await self._gateway.arrival_fault(request, call)
        return await self._gateway.open(request) if dropped is None else dropped

    async def _answer(
        self, request: web.Request, call: Call, make: Callable[[], dict[str, object]]
    ) -> web.StreamResponse:
        answer = await self._gateway.fault_before(request, call)
        if answer is not None:
            return answer
        await self._gateway.delay(call, self._knobs.now.latency_seconds)
        return await self._gateway.reply(request, call, make())


def attributes(number: str, known: Attributes) -> dict[str, object]:
    """What FTAI v5 says of a card. Raises ProductRefusal (400) for one that no network knows."""
    if number.startswith("4"):
        return {"visaNetworkInfo": [_on_visa(known)]}
    if number[0] in "235":
        return {"ppgsNetworkInfo": [_elsewhere(known)]}
    message = "Unable to find any participating network information for the provided account."
    raise error_response(400, "invalidParameter", message)


def exchange_rate(source: str, destination: str) -> Decimal:
    """Units of the destination for one of the source. Raises ProductRefusal (400) for a currency without a rate."""
    pair = [CURRENCIES[code][0] for code in (source, destination)]
    for name, code in zip(("sourceCurrencyCode", "destinationCurrencyCode"), pair, strict=True):
        if code not in PER_DOLLAR:
            details = [{"location": name, "message": "No rate for this currency"}]
            raise error_response(400, VALIDATION_ERROR, BAD_PARAMETERS, details)
    return (PER_DOLLAR[pair[1]] / PER_DOLLAR[pair[0]]).quantize(RATE_PLACES)


def _on_visa(known: Attributes) -> dict[str, object]:
    flags = {name: "Y" if (known.fast_funds if "FastFunds" in name else known.push_funds) else "N" for name in _FLAGS}
    return {
        "issuerName": known.issuer_name,
        "issuerCountryCode": int(numeric(known.issuer_country)),
        "billingCurrency": int(CURRENCIES[known.billing_currency][2]),
        "billingCurrencyCodeMinorDigits": str(CURRENCIES[known.billing_currency][1]),
        "cardProductType": "Consumer",
        "cardPlatformCode": "CN",
        "cardSubTypeCode": "N",
        "comboCardRange": "N",
        "geoRestrictionInd": "N",
        "pushFundsCrossBorderAuthApprovalInd": "READY" if known.push_funds else "NON-OPTIMIZED",
        **flags,
    }


def _elsewhere(known: Attributes) -> dict[str, object]:
    return {
        "networkId": 5,
        "octDomParticipant": "Y" if known.push_funds else "N",
        "octXbParticipant": "N",
        "octFastFunds": "D" if known.fast_funds else "N",
        "aftDomParticipant": "Y",
        "aftXbParticipant": "N",
        "cardIssuerCountryCode": int(numeric(known.issuer_country)),
        "billingCurrencyCode": int(CURRENCIES[known.billing_currency][2]),
        "billingCurrencyMinorDigits": CURRENCIES[known.billing_currency][1],
    }


def _by_acquirer(message: RateRequest, rate: Decimal) -> dict[str, object]:
    """Products A and B: text, and the markup in the other amount."""
    markup = Decimal(message.markup_rate or "0")
    factor = 1 - markup / 100
    document: dict[str, object] = {
        "rateProductCode": message.rate_product_code,
        "conversionRate": str(rate),
        "markupRateApplied": str(markup),
    }
    if message.source_amount is not None:
        credited = Decimal(message.source_amount) * rate * factor
        document["destinationAmount"] = str(_rounded(credited, message.destination_currency_code))
    if message.destination_amount is not None:
        debited = Decimal(message.destination_amount) / rate / factor
        document["sourceAmount"] = str(_rounded(debited, message.source_currency_code))
    return document


def _by_party(message: RateRequest, rate: Decimal) -> dict[str, object]:
    """Products BANK and WALLET: numbers, and both amounts."""
    document: dict[str, object] = {
        "rateProductCode": message.rate_product_code,
        "sourceCurrencyCode": message.source_currency_code,
        "destinationCurrencyCode": message.destination_currency_code,
        "conversionRate": float(rate),
    }
    if message.source_amount is not None:
        document["sourceAmount"] = float(message.source_amount)
        credited = Decimal(message.source_amount) * rate
        document["destinationAmount"] = float(_rounded(credited, message.destination_currency_code))
    if message.destination_amount is not None:
        document["destinationAmount"] = float(message.destination_amount)
        debited = Decimal(message.destination_amount) / rate
        document["sourceAmount"] = float(_rounded(debited, message.source_currency_code))
    return document


def _rounded(amount: Decimal, currency: str) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-CURRENCIES[currency][1]), ROUND_HALF_EVEN)


def _details(error: ValidationError) -> list[dict[str, str]]:
    found: list[Any] = error.errors(include_url=False, include_input=False, include_context=False)
    return [
        {"location": ".".join(str(step) for step in detail["loc"]) or "body", "message": detail["msg"]}
        for detail in found[:PROBLEMS_NAMED_MAX]
    ]
