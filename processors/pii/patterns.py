"""Personal data that is not a card number, by name: one pattern a kind, each with what keeps it from hitting ids.

Most need their name beside them (`cvv: 123`, `"cardPin":"1234"`, `<phone>…`): three or four digits alone are nothing.
Every pattern is bounded in length, so that a search takes time in proportion to the text.
"""

import re
from collections.abc import Iterator
from typing import Final

from processors.pii.hits import Hit, Kind

# Between a name and its value: quotes (escaped in nested JSON), white space, one of : = > and a word of prose.
_IS: Final = r"""[\\"'\])\s]{0,5}(?:[:=>]|\bis\b|\bno\.?|\#)?[\\"'(\[\s]{0,5}"""
_IS_CLEARLY: Final = r"""[\\"'\])\s]{0,5}(?:[:=>]|\bis\b|\bno\.?|\#)[\\"'(\[\s]{0,5}"""

_PHONE_NUMBER: Final = r"[+(]{0,2}[0-9](?:[ ().\u00a0/-]{0,2}[0-9]){6,14}"
# International: a plus, no leading zero, 7 to 15 digits (E.164) in groups or not.
_PHONE_WITH_PLUS: Final = re.compile(r"\+(?<![\w+].)[1-9](?:[ ().\u00a0-]{0,2}[0-9]){6,14}(?![0-9])")
# North America: 3-3-4 digits; nothing beside it that could make it a part of an id.
_PHONE_OF_AMERICA: Final = re.compile(
    r"(?<![\w.+-])(?:1[ .-])?(?:\([2-9][0-9]{2}\)[ ]?|[2-9][0-9]{2}[ .\u2010-\u2013-])"
    r"[0-9]{3}[ .\u2010-\u2013-][0-9]{4}(?![\w-])"
)
_PHONE_NAMED: Final = re.compile(
    r"(?:phone|mobile|msisdn|telephone|(?<![a-z])tel|(?<![a-z])cell|(?<![a-z])fax)(?:[ _-]?(?:number|no|nr))?"
    rf"{_IS_CLEARLY}({_PHONE_NUMBER})(?![0-9])",
    re.IGNORECASE,
)

# US social security numbers, taxpayer numbers of those who have none (9xx), and by name also without hyphens.
_SSN: Final = re.compile(
    r"(?<![\w-])(?!000|666)[0-9]{3}[-\u2010-\u2013](?!00)[0-9]{2}[-\u2010-\u2013](?!0000)[0-9]{4}(?![\w-])"
)
_SSN_NAMED: Final = re.compile(
    r"(?:(?<![a-z])ssn|social[ _-]?security(?:[ _-]?(?:number|no|nr))?|(?<![a-z])itin|tax[ _-]?(?:payer[ _-]?)?id)"
    rf"{_IS}([0-9]{{3}}[ -]?[0-9]{{2}}[ -]?[0-9]{{4}})(?![0-9])",
    re.IGNORECASE,
)

_CVV: Final = re.compile(
    r"(?:(?<![a-z])(?:card)?(?:cvv|cvc|cvn|csc)[ _-]?2?|card[ _-]?verification(?:[ _-]?(?:value|code|number))?"
    rf"|security[ _-]?code)(?:[ _-]?(?:value|code|number))?{_IS}([0-9]{{3,4}})(?![0-9A-Za-z.-])",
    re.IGNORECASE,
)
_PIN: Final = re.compile(
    r"(?:(?<![A-Za-z])[Pp]|(?<=[a-z])P)(?:in|IN)(?:[ _-]?(?:code|Code|number|Number|no|block|Block))?"
    rf"{_IS}([0-9]{{4,12}})(?![0-9A-Za-z.-])"
)
# A month of a year beside a word for expiry. A day behind it makes it a date of something else.
_EXPIRY: Final = re.compile(
    r"(?:(?<![a-z])exp|expir(?:y|ation|es?)|valid[ _-]?(?:thru|through|until|to)|good[ _-]?thru)"
    rf"(?:[ _-]?(?:date|month))?(?:[ _-]?end)?{_IS}"
    r"((?:0[1-9]|1[0-2])\s?[/\-]\s?(?:20)?[0-9]{2}(?![0-9A-Za-z/-])"
    r"|20[2-9][0-9][-/](?:0[1-9]|1[0-2])(?![0-9A-Za-z/-])"
    r"|(?:0[1-9]|1[0-2])[2-5][0-9](?![0-9A-Za-z.-]))",
    re.IGNORECASE,
)

_ACCOUNT_NAMED: Final = re.compile(
    r"(?:(?:account|(?<![a-z])acct|(?<![a-z])a/c)(?:[ _-]?(?:number|num|no\b\.?|nr|\#))?"
    r"|clabe)"
    rf"{_IS_CLEARLY}([0-9](?:[ -]?[0-9]){{5,33}})(?![0-9A-Za-z])",
    re.IGNORECASE,
)
_BANK_NAMED: Final = re.compile(
    r"(?:sort[ _-]?code|routing[ _-]?(?:transit[ _-]?)?(?:number|no)"
    r"|(?<![0-9a-z])bsb(?![0-9a-z])|(?<![0-9a-z])aba(?![0-9a-z])(?:[ _-]?(?:number|no))?)"
    rf"{_IS}([0-9]{{2,3}}[ -]?[0-9]{{2,3}}[ -]?[0-9]{{2,3}})(?![0-9A-Za-z-])",
    re.IGNORECASE,
)
# Country, two check digits, then groups of four. Lengths: the ISO 13616 registry.
_IBAN: Final = re.compile(r"[A-Za-z](?<![0-9A-Za-z].)[A-Za-z][0-9]{2}(?:[ \u00a0]?[0-9A-Za-z]){11,30}")
_IBAN_LENGTHS: Final = dict(
    pair
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC",
        32: "LC", 33: "RU",
    }.items()
    for pair in ((country, length) for country in countries.split())
)  # fmt: skip

# First digits or none, four to twelve signs, the last four digits.
_MASKED: Final = re.compile(
    r"(?<![0-9A-Za-z*\u2022])(?:[0-9]{4}[ -]?(?:[0-9]{2,4})?(?:[ -]?[*xX\u2022]){4,12}|(?:[*xX\u2022][ -]?){8,15})"
    r"[ -]?[0-9]{3,4}(?![0-9A-Za-z])"
)

# An e-mail address is looked for around its @: 64 characters before it and 254 in all (RFC 5321).
_LOCAL_CHARACTERS_MAX: Final = 64
_LOCAL: Final = frozenset("!#$&*+-./_~^{}|") - {"/", "{", "}", "|"}
_DOMAIN: Final = re.compile(r"(?:[\w-]{1,63}\.){1,8}(?:xn--[\w-]{1,59}|[^\W\d_]{2,24})(?![\w-])")


def find_others(text: str) -> Iterator[Hit]:
    """Every kind but CARD, in no order; hits may overlap. Only patterns whose words are there are tried."""
    low = text.lower()
    for kind, words, pattern in _NAMED:
        for word in words:
            if word in low:
                yield from (Hit(kind, *match.span(1)) for match in pattern.finditer(text))
                break
    if _GROUPED_DIGITS.search(text):
        yield from (Hit(Kind.SSN, *match.span()) for match in _SSN.finditer(text))
        yield from (Hit(Kind.PHONE, *match.span()) for match in _PHONE_OF_AMERICA.finditer(text))
    if "+" in text:
        yield from (Hit(Kind.PHONE, *match.span()) for match in _PHONE_WITH_PLUS.finditer(text))
    if "@" in text:
        yield from _emails(text)
    for mark in _MASK_MARKS:
        if mark in low:
            yield from (Hit(Kind.CARD_MASKED, *match.span()) for match in _MASKED.finditer(text))
            break
    for match in _IBAN.finditer(text):
        yield from _iban(match)


_NAMED: Final[tuple[tuple[Kind, tuple[str, ...], re.Pattern[str]], ...]] = (
    (Kind.ACCOUNT, ("account", "acct", "a/c", "clabe"), _ACCOUNT_NAMED),
    (Kind.ACCOUNT, ("sort", "routing", "bsb", "aba"), _BANK_NAMED),
    (Kind.SSN, ("ssn", "social", "itin", "tax"), _SSN_NAMED),
    (Kind.CVV, ("cvv", "cvc", "cvn", "csc", "verification", "security"), _CVV),
    (Kind.PIN, ("pin",), _PIN),
    (Kind.EXPIRY, ("exp", "valid", "thru"), _EXPIRY),
    (Kind.PHONE, ("phone", "mobile", "msisdn", "tel", "cell", "fax"), _PHONE_NAMED),
)
# Two gaps and four digits, as SSN and American phone numbers have them.
_GROUPED_DIGITS: Final = re.compile("[ .)\u2010-\u2013-][0-9]{2,3}[ .\u2010-\u2013-][0-9]{4}(?![0-9])")
_MASK_MARKS: Final = ("**", "xx", "\u2022\u2022", "* *", "*-*", "x-x")


def _emails(text: str) -> Iterator[Hit]:
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        start = at
        while start > max(0, at - _LOCAL_CHARACTERS_MAX) and (text[start - 1].isalnum() or text[start - 1] in _LOCAL):
            start -= 1
        if domain is not None and start < at:
            yield Hit(Kind.EMAIL, start, domain.end())
        at = text.find("@", at + 1)


def _iban(match: re.Match[str]) -> Iterator[Hit]:
    length = _IBAN_LENGTHS.get(match[0][:2].upper())
    if length is None:
        return
    places = [place for place, character in enumerate(match[0]) if character.isalnum()]
    if len(places) < length:
        return
    end = match.start() + places[length - 1] + 1
    number = "".join(match[0][place] for place in places[:length])
    if match.string[end : end + 1].isalnum() or not _passes_mod_97(number):
        return
    yield Hit(Kind.ACCOUNT, match.start(), end)


def _passes_mod_97(number: str) -> bool:
    """ISO 13616: the first four characters behind the rest, letters as 10 to 35, the remainder of 97 is 1."""
    return int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 == 1
