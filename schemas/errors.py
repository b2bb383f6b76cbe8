"""What can go wrong between a record and its bytes.

Two families, kept apart because they have opposite consequences (P8): an `Undecodable` record goes to the
dead letters and its partition goes on; `RegistryUnavailable` stops the partition until the registry answers,
because the record may be perfectly good. No message of this module quotes a record's content (P6).
"""

from __future__ import annotations

from typing import ClassVar


class Undecodable(ValueError):
    """The bytes of one record cannot be read, now or later; `code` is stable, for headers and metrics."""

    code: ClassVar[str] = "UNDECODABLE"


class NoMagicByte(Undecodable):
    """The value is empty or does not begin with the wire format's zero byte and a four-byte schema id."""

    code: ClassVar[str] = "NO_MAGIC_BYTE"


class UnknownSchemaId(Undecodable):
    """Neither the pinned table nor the registry, which did answer, knows the schema id."""

    code: ClassVar[str] = "UNKNOWN_SCHEMA_ID"


class WrongSchema(Undecodable):
    """The schema id names a schema that the topic's own cannot read: another record, or an incompatible one."""

    code: ClassVar[str] = "WRONG_SCHEMA"


class Malformed(Undecodable):
    """The bytes are not an encoding of the schema that they name."""

    code: ClassVar[str] = "MALFORMED"


class TrailingBytes(Malformed):
    """The record ends before the value does."""

    code: ClassVar[str] = "TRAILING_BYTES"


class OverLimit(Undecodable):
    """The value is longer than any record may be."""

    code: ClassVar[str] = "OVER_LIMIT"


class Unencodable(ValueError):
    """A record does not fit its schema. `field` is the path, for example `amount.currency`; no value is quoted."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field or 'record'}: {problem}")
        self.field = field
        self.problem = problem


class RegistryUnavailable(RuntimeError):
    """The registry did not give a usable answer; nothing is known about the record. Wait and try again."""


class SchemaNotRegistered(RegistryUnavailable):
    """The registry answered, and does not have our schema: run `payouts schemas push`."""
