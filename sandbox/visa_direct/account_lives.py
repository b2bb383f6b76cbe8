"""Which account gets which life: the data file, read once and checked."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

LIVES_FILE: Final = Path(__file__).with_name("test_accounts.yaml")
USUAL: Final = "DELIVER"
_NAMED: Final = re.compile(r"TEST([A-Z]+)[0-9]*")

Status = Literal[
    "PAYMENT_RECEIVED",
    "AWAITING_INFORMATION",
    "PAYMENT_SENT",
    "DELIVERED_TO_SCHEME",
    "DELIVERED_TO_RECIPIENT_BANK",
    "PAYMENT_DELIVERED",
    "PENDING_CANCELLATION",
    "CANCELLED",
    "RETURNED",
    "REJECTED",
]


class Life(BaseModel):
    """What becomes of a payout that was accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: list[Status]
    speed: Literal["STANDARD", "PREMIUM"] = "STANDARD"
    last_step_after: int = Field(1, ge=1)
    funding_status: Literal["FUNDED", "NOT_FUNDED", "FUNDED_AGING"] = "FUNDED"
    refused: Annotated[str, Field(pattern=r"^4[0-9]{3}$")] | None = None
    note: str


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    lives: dict[str, Life]


class Lives:
    """The lives of the data file, by account number."""

    def __init__(self, path: Path = LIVES_FILE) -> None:
        self._lives = _File.model_validate(yaml.safe_load(path.read_text("utf-8"))).lives

    def of(self, account_number: str) -> Life:
        """The life of an account or wallet."""
        named = _NAMED.fullmatch(account_number)
        return self._lives.get(named.group(1) if named else USUAL, self._lives[USUAL])
