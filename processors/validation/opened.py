"""A request together with what its encrypted fields hold, opened once and used by every stage.

Opening never raises for what an originator sent: what does not open is `Unreadable`, and validation turns it into a
rejected payout (rule K7).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from processors.personal_data import (
    Card,
    FieldNamesOnly,
    OpaqueDetails,
    PartyKeys,
    PersonalData,
    PersonalDataUnreadable,
)
from processors.validation.request import Destination, Funding, PayoutRequest


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An encrypted field that does not open; `why` says what to do and holds no content."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OpenedRequest(FieldNamesOnly):
    """The decrypted parts of one request; None where the request does not carry the field."""

    personal: PersonalData | Unreadable | None
    destination_card: Card | Unreadable | None
    funding_card: Card | Unreadable | None
    destination_details: OpaqueDetails | Unreadable | None
    """The account, wallet or alias."""


Opened = TypeVar("Opened")


def open_request(request: PayoutRequest, keys: PartyKeys) -> OpenedRequest:
    """Decrypt every encrypted field of `request`. Costs about a millisecond of CPU a field; raises nothing."""
    return OpenedRequest(
        personal=_opened(keys.open_personal_data, request.personal_data),
        destination_card=_opened(keys.open_card, encrypted_destination_card(request.destination)),
        funding_card=_opened(keys.open_card, encrypted_funding_card(request.funding)),
        destination_details=_opened(keys.open_opaque, encrypted_destination_details(request.destination)),
    )


def encrypted_destination_card(destination: Destination) -> str | None:
    """The JWE of the recipient's card, if the destination carries one."""
    return destination.card.encrypted_card if destination.card else None


def encrypted_funding_card(funding: Funding) -> str | None:
    """The JWE of the card that was pulled from, if the funding carries one."""
    return funding.aft.encrypted_card if funding.aft else None


def encrypted_destination_details(destination: Destination) -> str | None:
    """The JWE of the account, wallet or alias, whichever comes first; a request with two of them is refused."""
    if destination.account:
        return destination.account.encrypted_account
    if destination.wallet:
        return destination.wallet.encrypted_wallet
    return destination.alias.encrypted_alias if destination.alias else None


def _opened(open_field: Callable[[str], Opened], token: str | None) -> Opened | Unreadable | None:
    if token is None:
        return None
    try:
        return open_field(token)
    except PersonalDataUnreadable as error:
        return Unreadable(str(error))
