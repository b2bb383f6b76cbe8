"""Personal data in texts (promise P6): what may be found (`find`), masked (`redact_text`) or shown (`redact_fields`).

hits.py       the kinds of personal data
cards.py      card numbers, in one piece or in the groups that people write
patterns.py   everything else: e-mail, phone, SSN, CVV, PIN, expiry, accounts, masked card numbers
escapes.py    the same text without URL, JSON, XML and Python escapes
find.py       all of it: what stands where
redaction.py  what may be shown: the one function for logs, errors and spans
"""
