"""Who sends and who receives, opened from the JWE they travel in (promise P6).

Plaintexts follow the published JSON schemas of `schemas/`: personal_data, card, account, wallet and alias.
Nothing here prints content: dataclasses show the names of the fields that are set, errors a cause and a remedy.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any, Final, NoReturn

from jsonschema import Draft202012Validator
from jwcrypto import jwk

from processors.sealing import (
    SealingError,
    SealingKeyInvalid,
    decrypt_compact,
    encrypt_compact,
    load_private_key,
    load_public_key,
)
from processors.secrets import CardNumber, Secret
from schemas.card_numbers import looks_like_card_number

# Two parties with every field at its longest fit in 16 KiB; base64url and the wrapped key make less than 32 KiB of it.
LARGEST_JWE_BYTES: Final = 32 * 1024
LARGEST_PLAINTEXT_BYTES: Final = 16 * 1024

# Cc control characters, Cs lone surrogates, Cn and Co unassigned and private use: no name or address holds them, and
# databases, matchers and Visa's API fail on them in different ways.
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cs", "Cn", "Co"})


LONGEST_TELEPHONE_DIGITS = 15
"""ITU-T E.164."""


class PersonalDataUnreadable(Exception):
    """The JWE does not open, or its content does not follow the published schema.

    The text says which and what to do; it never holds content.
    """


class FieldNamesOnly:
    """Mixin for dataclasses that must not print what they hold: the repr names the fields that are set."""

    __slots__ = ()

    def __repr__(self) -> str:
        names = [item.name for item in fields(self) if getattr(self, item.name) is not None]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(names)})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Address(FieldNamesOnly):
    """A postal address; `country` is ISO 3166-1 alpha-2."""

    line1: str | None = None
    city: str | None = None
    state: str | None = None
    postal_code: str | None = None
    country: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Party(FieldNamesOnly):
    """A sender or a recipient. `name` is the full name; `date_of_birth` is YYYY-MM-DD."""

    name: str
    first_name: str | None = None
    last_name: str | None = None
    date_of_birth: str | None = None
    nationality: str | None = None
    account_reference: str | None = None
    address: Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PersonalData(FieldNamesOnly):
    """Both parties of one payout."""

    sender: Party
    recipient: Party


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Card(FieldNamesOnly):
    """A card; `number` cannot print itself, `expiry` is YYYY-MM."""

    number: CardNumber
    expiry: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BankAccount(FieldNamesOnly):
    """A bank account; `account_number` cannot print itself. Codes as `schemas/account.schema.json` says."""

    account_number: Secret
    country: str
    currency: str
    account_number_type: str | None = None
    account_type: str | None = None
    account_name: str | None = None
    bank_code: str | None = None
    branch_code: str | None = None
    bank_name: str | None = None
    bic: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Wallet(FieldNamesOnly):
    """A digital wallet; `account_number` cannot print itself."""

    account_number: Secret
    operator_name: str
    country: str
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Alias(FieldNamesOnly):
    """An e-mail address or a mobile number that a directory resolves to a card; `value` cannot print itself."""

    value: Secret


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OpaqueDetails(FieldNamesOnly):
    """A decrypted account, wallet or alias, as it is compared for equality (rule L8)."""

    canonical: str
    """Canonical JSON text where the plaintext is JSON, else the plaintext."""


class PartyKeys:
    """The processor's private keys, by key id: open what originators encrypted to their public halves.

    Opening costs about a millisecond of CPU for each JWE (one RSA operation).
    """

    __slots__ = ("_keys",)

    def __init__(self, private_keys: Iterable[Mapping[str, Any] | str | bytes]) -> None:
        """`private_keys` are RSA JWKs or PEMs, the retired ones included. Raises SealingKeyInvalid."""
        loaded = [load_private_key(key) for key in private_keys]
        self._keys: dict[str, jwk.JWK] = {str(key["kid"]): key for key in loaded}
        if not self._keys or len(self._keys) != len(loaded):
            raise SealingKeyInvalid("at least one private key is needed, and no two may have the same key id")

    @classmethod
    def from_jwks(cls, text: str | bytes) -> "PartyKeys":
        """From the text of a JWK set with private keys. Raises SealingKeyInvalid."""
        try:
            keys = json.loads(text)["keys"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise SealingKeyInvalid('the key set is not JSON of the form {"keys": [...]}') from None
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            raise SealingKeyInvalid('the member "keys" of the key set must be a list of JWKs')
        return cls(keys)

    def __repr__(self) -> str:
        return f"PartyKeys({sorted(self._keys)!r})"

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids that originators may name in a JWE."""
        return frozenset(self._keys)

    def public_jwks(self) -> str:
        """The public key set that originators encrypt to, as JSON."""
        keys = [key.export_public(as_dict=True) for _, key in sorted(self._keys.items())]
        return json.dumps({"keys": keys}, sort_keys=True)

    def open_personal_data(self, token: str) -> PersonalData:
        """Both parties. Raises PersonalDataUnreadable, without content."""
        document = _validated(self._open_json(token, "personal data"), "personal_data.schema.json", "personal data")
        return PersonalData(sender=_party(document["sender"]), recipient=_party(document["recipient"]))

    def open_card(self, token: str) -> Card:
        """A card. Raises PersonalDataUnreadable, without content."""
        document = _validated(self._open_json(token, "card"), "card.schema.json", "card")
        return Card(number=CardNumber(document["primary_account_number"]), expiry=document.get("expiry"))

    def open_opaque(self, token: str) -> OpaqueDetails:
        """An account, wallet or alias, uninterpreted. Raises PersonalDataUnreadable, without content."""
        return opaque_details(self.open_destination(token))

    def open_destination(self, token: str) -> bytes:
        """The plaintext of an account, wallet or alias; not to be kept. Raises PersonalDataUnreadable."""
        return self._open(token, "destination")

    def _open(self, token: str, what: str) -> bytes:
        try:
            return decrypt_compact(
                self._keys,
                token,
                largest_token_bytes=LARGEST_JWE_BYTES,
                largest_plaintext_bytes=LARGEST_PLAINTEXT_BYTES,
            )
        except SealingError as error:
            raise PersonalDataUnreadable(f"the encrypted {what} cannot be opened: {error}") from None

    def _open_json(self, token: str, what: str) -> object:
        document = _parsed_json(self._open(token, what))
        if document is None:
            raise PersonalDataUnreadable(f"the decrypted {what} is not a JSON object in UTF-8 with unique member names")
        return document


def opaque_details(plaintext: bytes) -> OpaqueDetails:
    """The form in which an opened account, wallet or alias is compared: canonical JSON, else the text itself."""
    try:
        document = json.loads(plaintext)
    except (ValueError, RecursionError):
        return OpaqueDetails(canonical=plaintext.decode(errors="backslashreplace"))
    return OpaqueDetails(canonical=json.dumps(document, sort_keys=True, separators=(",", ":")))


def read_account(plaintext: bytes) -> BankAccount:
    """The account of an opened `encrypted_account`. Raises PersonalDataUnreadable, without content."""
    document = _validated(_parsed_json(plaintext), "account.schema.json", "account")
    return BankAccount(**document | {"account_number": Secret(document["account_number"])})


def read_wallet(plaintext: bytes) -> Wallet:
    """The wallet of an opened `encrypted_wallet`. Raises PersonalDataUnreadable, without content."""
    document = _validated(_parsed_json(plaintext), "wallet.schema.json", "wallet")
    return Wallet(**document | {"account_number": Secret(document["account_number"])})


def read_alias(plaintext: bytes) -> Alias:
    """The alias of an opened `encrypted_alias`. Raises PersonalDataUnreadable, without content."""
    document = _validated(_parsed_json(plaintext), "alias.schema.json", "alias")
    alias = document["alias"]
    # A telephone number has at most 15 digits, and many of 13 pass for an old card's.
    if sum(map(str.isdigit, alias)) > LONGEST_TELEPHONE_DIGITS and looks_like_card_number(alias):
        raise PersonalDataUnreadable("the alias looks like a card number, which no directory may be asked for")
    return Alias(value=Secret(alias))


def seal_for_processor(public_key: Mapping[str, Any] | str | bytes, document: Mapping[str, Any]) -> str:
    """The originator's side: `document` as JSON in a compact JWE to the processor's public key (JWK or PEM).

    Raises SealingKeyInvalid for an unusable key, ValueError when the document is over 16 KiB.
    """
    plaintext = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    if len(plaintext) > LARGEST_PLAINTEXT_BYTES:
        raise ValueError(f"the document has {len(plaintext)} bytes; at most {LARGEST_PLAINTEXT_BYTES} are accepted")
    return encrypt_compact(load_public_key(public_key), plaintext)


def _parsed_json(plaintext: bytes) -> object:
    # None, not an exception: a JSON error carries the whole document with it, and contexts end up in tracebacks.
    try:
        document: object = json.loads(
            plaintext.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constants
        )
    except (ValueError, RecursionError):
        return None
    return document


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError
    return document


def _no_constants(_: str) -> NoReturn:
    raise ValueError


@cache
def _validator(file_name: str) -> Draft202012Validator:
    schema = json.loads(resources.files("schemas").joinpath(file_name).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def _validated(document: object, file_name: str, what: str) -> dict[str, Any]:
    # Only the path and the name of the violated keyword are shown: the library's messages quote the instance.
    error = next(iter(_validator(file_name).iter_errors(document)), None)
    if error is not None:
        raise PersonalDataUnreadable(
            f"the decrypted {what} does not follow {file_name}: {error.json_path} fails {error.validator!r}; "
            f"compare with the published schema"
        )
    if not _is_plain(document):
        raise PersonalDataUnreadable(f"the decrypted {what} holds control or unassigned characters; remove them")
    if not isinstance(document, dict):
        raise PersonalDataUnreadable(f"the decrypted {what} is not a JSON object")
    return document


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    return not isinstance(value, str) or is_plain_text(value)


def is_plain_text(text: str) -> bool:
    """Whether the text is free of control characters, lone surrogates and unassigned or private code points."""
    if text.isascii():
        return text.isprintable()
    return all(unicodedata.category(character) not in _REFUSED_CATEGORIES for character in text)


def _party(document: Mapping[str, Any]) -> Party:
    address = document.get("address")
    return Party(
        name=document["name"],
        first_name=document.get("first_name"),
        last_name=document.get("last_name"),
        date_of_birth=document.get("date_of_birth"),
        nationality=document.get("nationality"),
        account_reference=document.get("account_reference"),
        address=None if address is None else Address(**address),
    )
