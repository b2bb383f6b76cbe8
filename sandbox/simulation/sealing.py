"""Boxes of the simulation: bound to purpose and subject as the product's, and made of nothing but them.

What they keep is not readable as it stands, so that the search for card numbers finds no more than it should.
"""

from __future__ import annotations

from processors.sealing import BoxNotOpened


class SimulatedSealer:
    """`processors.sealing.Sealer` without its ciphers, which are half of what a call costs and no part of a world."""

    def seal(self, plaintext: bytes, purpose: str, subject: str) -> bytes:
        """A box that opens with the same purpose and subject only."""
        return _label(purpose, subject) + plaintext[::-1]

    def open(self, box: bytes, purpose: str, subject: str) -> bytes:
        """The plaintext. Raises BoxNotOpened."""
        label = _label(purpose, subject)
        if not box.startswith(label):
            raise BoxNotOpened("the box is for another row or column")
        return box[len(label) :][::-1]


class SimulatedEnvelopes:
    """`processors.sealing.EnvelopeSealer`, likewise."""

    key_id = "simulated"

    def seal(self, plaintext: bytes) -> bytes:
        """Opened by nobody."""
        return plaintext[::-1]


def _label(purpose: str, subject: str) -> bytes:
    return f"{purpose}\n{subject}\n".encode()
