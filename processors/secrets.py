"""Values that must never be printed: passwords, keys, card numbers (promise P6).

`Secret` and `CardNumber` show their type and nothing else in `repr`, `str`, `format` and f-strings, and refuse to be
pickled. Only `reveal()` gives the value; search for it to find every place where one leaves its box.
"""

import hmac
import re
from typing import Any, Final, NoReturn, Self

# ISO/IEC 7812 and Visa's OpenAPI: an account number has 13 to 19 digits.
_CARD_NUMBER: Final = re.compile(r"[0-9]{13,19}")


class Secret:
    """A text that cannot show itself. Compared in constant time, and only with its own type."""

    __slots__ = ("__value",)
    __value: str

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError("a secret is made of text; decode bytes first")
        object.__setattr__(self, "_Secret__value", value)

    def reveal(self) -> str:
        """The value itself. Never log, format or raise what this returns."""
        return self.__value

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return format(repr(self), format_spec)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed; make a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed; make a new one")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or not isinstance(other, Secret):
            return NotImplemented
        mine = self.__value.encode("utf-8", "surrogatepass")
        return hmac.compare_digest(mine, other.reveal().encode("utf-8", "surrogatepass"))

    def __hash__(self) -> int:
        return hash((type(self), self.__value))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} cannot be pickled: its value must not reach a file or another process")


class CardNumber(Secret):
    """A card's account number: 13 to 19 digits without spaces.

    No check digit is asked for: several of Visa's published test numbers fail it. Raises ValueError, without the
    value, when the text has another form.
    """

    __slots__ = ()

    def __init__(self, value: str) -> None:
        if not isinstance(value, str) or _CARD_NUMBER.fullmatch(value) is None:
            raise ValueError("a card number is 13 to 19 digits without spaces or separators")
        super().__init__(value)
