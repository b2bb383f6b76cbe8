"""Which failures are not the record's own: a part that everybody needs is away, and new work waits (K5, P8)."""

from ledger.interface import CommitUnknown, LedgerUnavailable, LedgerUnverified
from processors.compliance.decide import ComplianceUnavailable
from processors.content import ContentKeyUnknown
from processors.sealing import SealingKeyUnknown
from schemas.codec import RegistryUnavailable, SchemaNotRegistered
from streams.holes import Unreadable
from streams.publisher import BrokerUnavailable, PublishUnconfirmed


def what_is_away(error: Exception) -> str | None:
    """The part that is away, if this error says so; None for an error of the record's own."""
    if isinstance(error, LedgerUnverified):
        return "ledger"
    if isinstance(error, LedgerUnavailable | CommitUnknown):
        return "database"
    if isinstance(error, RegistryUnavailable | SchemaNotRegistered):
        return "schema registry"
    if isinstance(error, BrokerUnavailable | PublishUnconfirmed | Unreadable):
        return "broker"
    if isinstance(error, SealingKeyUnknown | ContentKeyUnknown):
        return "keys"  # every payout under that key fails alike: a person restores it, nothing is decided meanwhile
    return "compliance" if isinstance(error, ComplianceUnavailable) else None
