"""What reading a payout request takes: the contract's codec and our keys. The only part of the intake that costs time.

The simulation has one of its own, over requests that were never encrypted.
"""

from typing import Protocol

from processors.content import ContentDigest, content_digest
from processors.validation.opened import OpenedRequest, open_request
from processors.validation.request import PayoutRequest, parse_request
from schemas.codec import Codec
from streams.keys import Keys
from streams.stages import REQUEST_PURPOSE


class RequestReader(Protocol):
    """From the bytes of a record to what the intake decides on, and to what its row keeps."""

    async def read(self, value: bytes) -> tuple[PayoutRequest, OpenedRequest]:
        """Decode and decrypt. Raises Undecodable, RequestMalformed, RegistryUnavailable."""

    def digest(
        self, request: PayoutRequest, opened: OpenedRequest, value: bytes, *, key_version: str | None = None
    ) -> ContentDigest:
        """The keyed hashes of bytes and content (rule L8); `key_version`: under an older row's key.

        Raises ContentKeyUnknown.
        """

    def seal(self, value: bytes, payout_id: str) -> bytes:
        """The whole request, encrypted for the row. Raises SealingKeyUnknown."""


class KeyedRequestReader:
    """The product's reader."""

    def __init__(self, codec: Codec, keys: Keys) -> None:
        self._codec = codec
        self._keys = keys

    async def read(self, value: bytes) -> tuple[PayoutRequest, OpenedRequest]:
        """See `RequestReader.read`."""
        decoded = await self._codec.decode("PayoutRequest", value)
        request = parse_request(decoded.record)
        return request, open_request(request, self._keys.party)

    def digest(
        self, request: PayoutRequest, opened: OpenedRequest, value: bytes, *, key_version: str | None = None
    ) -> ContentDigest:
        """See `RequestReader.digest`."""
        return content_digest(self._keys.content, request, opened, value, key_version=key_version)

    def seal(self, value: bytes, payout_id: str) -> bytes:
        """See `RequestReader.seal`."""
        return self._keys.sealer.seal(value, REQUEST_PURPOSE, payout_id)
