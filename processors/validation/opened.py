"""A request together with what its encrypted fields hold, opened once and used by every stage.

Opening never raises for what an originator sent: what does not open is `Unreadable`, and validation turns it into a
rejected payout (rule K7).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from processors.payout.row import DestinationKind
from processors.personal_data import (
    Alias,
    BankAccount,
    Card,
    FieldNamesOnly,
    OpaqueDetails,
    PartyKeys,
    PersonalData,
    PersonalDataUnreadable,
    Wallet,
    opaque_details,
    read_account,
    read_alias,
    read_wallet,
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
    """The account, wallet or alias, as it is compared."""
    destination_account: BankAccount | Wallet | Alias | Unreadable | None = None
    """The account or wallet, as it is paid to; or the alias, as it is asked about."""


Opened = TypeVar("Opened")


def open_request(request: PayoutRequest, keys: PartyKeys) -> OpenedRequest:
    """Decrypt every encrypted field of `request`. Costs about a millisecond of CPU a field; raises nothing."""
    destination = _opened(keys.open_destination, encrypted_destination_details(request.destination))
    return OpenedRequest(
        personal=_opened(keys.open_personal_data, request.personal_data),
        destination_card=_opened(keys.open_card, encrypted_destination_card(request.destination)),
        funding_card=_opened(keys.open_card, encrypted_funding_card(request.funding)),
        destination_details=opaque_details(destination) if isinstance(destination, bytes) else destination,
        destination_account=_account(request.destination.kind, destination),
    )


def _account(
    kind: DestinationKind, plaintext: bytes | Unreadable | None
) -> BankAccount | Wallet | Alias | Unreadable | None:
    if not isinstance(plaintext, bytes):
        return plaintext if kind in _READERS else None
    read = _READERS.get(kind)
    try:
        return None if read is None else read(plaintext)
    except PersonalDataUnreadable as error:
        return Unreadable(str(error))


_READERS: Final[Mapping[DestinationKind, Callable[[bytes], BankAccount | Wallet | Alias]]] = {
    DestinationKind.ALIAS: read_alias,
    DestinationKind.ACCOUNT: read_account,
    DestinationKind.WALLET: read_wallet,
}


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
