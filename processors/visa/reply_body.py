"""From the bytes of an answer to one unambiguous value, or the reason why there is none. Pure but for decryption."""

import json
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NoReturn

from processors.visa.exchange import BodyProblem
from processors.visa.mle import ENCRYPTED_MEMBER, MleError

# Visa's older 202 is a bare identifier (about 40 characters); longer text is an error page and of no use.
LONGEST_PLAIN_TEXT: Final = 256
# An answer has two or three levels; the parser recurses, so a bomb of brackets must not reach it.
DEEPEST_NESTING: Final = 32

Decrypt = Callable[[str], bytes]
ReadBody = tuple[object | None, BodyProblem | None]


def read_body(content: bytes, decrypt: Decrypt | None) -> ReadBody:
    """(value, None), or (None or short text, problem).

    `decrypt` opens `encData` where encryption is in use; error envelopes may come in clear, so a body without
    `encData` is read as it is.
    """
    if not content.strip():
        return None, BodyProblem.EMPTY
    value, problem = _read_json(content)
    if problem is not None or not isinstance(value, dict) or set(value) != {ENCRYPTED_MEMBER}:
        return value, problem
    compact = value[ENCRYPTED_MEMBER]
    if decrypt is None or not isinstance(compact, str):
        return None, BodyProblem.UNDECRYPTABLE
    try:
        plaintext = decrypt(compact)
    except MleError:
        return None, BodyProblem.UNDECRYPTABLE
    if not plaintext.strip():
        return None, BodyProblem.EMPTY
    return _read_json(plaintext)


def _read_json(content: bytes) -> ReadBody:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None, BodyProblem.NOT_JSON
    if _looks_deep(text):
        return None, BodyProblem.NOT_JSON
    try:
        value = json.loads(
            text, parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated_members
        )
    except (ValueError, RecursionError, InvalidOperation):  # the last: an exponent of more than 18 digits
        plain = text.strip()
        return (plain if len(plain) <= LONGEST_PLAIN_TEXT else None), BodyProblem.NOT_JSON
    return value, None


def _looks_deep(text: str) -> bool:
    depth = deepest = 0
    for character in text:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest > DEEPEST_NESTING


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


def _refuse_repeated_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # {"actionCode": "05", "actionCode": "00"} says both; the last must not win.
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError
    return document
