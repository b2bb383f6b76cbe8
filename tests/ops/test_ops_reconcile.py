"""S4-23, S4-24, S4-30: a day is compared on a real cluster, ledger and Reports API; what disagrees is kept.

Every test has a day of its own, so that none depends on what another one left.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import TopicPartition

from ops.exit_codes import ExitCode
from ops.kafka import group_consumer
from processors.payout.row import CompensationState, PayoutRow, PayoutState
from sandbox.servers.visa_stand_in import VisaStandIn
from tests.ops.conftest import Live, request_document, result_record, sample_row

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

HEADER: Final = (
    "Processing Date,Acquirer Bin,Visa Transaction ID,Transaction State,Reason Code,Card Acceptor ID,"
    "Card Acceptor Name,System Trace Audit Number,Account Number Masked,Transaction Date,Transaction Time,"
    "Transaction Amount,Transaction Currency,Auth Code,RRN,FeeProgramIndicator Code,FeeProgramIndicator Desc,"
    "Settlement Datetime"
)


class Day:
    """A day of the past, and its payouts, each with numbers of its own at Visa."""

    _days_ago = itertools.count(2)
    _numbers = itertools.count(1)

    def __init__(self, live: Live, report: Path, days_ago: int | None = None) -> None:
        self.live = live
        self._report = report
        now = datetime.now(UTC)
        self.noon = now.replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(
            days=next(self._days_ago) if days_ago is None else days_ago
        )
        self.date = self.noon.date().isoformat()

    def sent(self, state: PayoutState, *, told: bool = True, **changes: Any) -> PayoutRow:
        """A payout that was sent at noon and stands there since."""
        payout_id = f"rec-{uuid.uuid4().hex[:8]}"
        noon, number = self.noon, next(self._numbers)
        times = {"received_at": noon, "requested_at": noon, "state_at": noon, "funding_captured_at": noon}
        sent = {
            "state": state, "state_version": 2, "identity_number": number,
            "systems_trace_audit_number": 100_000 + number, "retrieval_reference_number": "633212000000",
            "first_intent_at": noon, "last_intent_at": noon, "attempts": 1, "state_at": noon + timedelta(seconds=2),
        }  # fmt: skip
        row = self.live.store(sample_row(payout_id, **times), [("sent", sent | changes)])
        if told and row.is_terminal:
            self.tell(row)
        return row

    def tell(self, row: PayoutRow, **changes: Any) -> None:
        """The result, as the worker publishes it."""
        record = result_record(row.payout_id, version=row.state_version, status=row.state.value) | changes
        self.live.publish("PayoutResult", record, row.state_version)

    def line(self, row: PayoutRow, **changes: str) -> str:
        """Visa's line of it."""
        cells = {
            "day": self.date, "transaction": f"528706215{row.systems_trace_audit_number}", "state": "CRED VOUCHER",
            "trace": str(row.systems_trace_audit_number), "amount": "12.50", "currency": "840",
            "reference": str(row.retrieval_reference_number), "acceptor": "PAYOUTSTREAMS01", "bin": "408999",
        } | changes  # fmt: skip
        return (
            f"{cells['day']},{cells['bin']},{cells['transaction']},{cells['state']},NOT APPLICABLE,"
            f"{cells['acceptor']},SHOP,{cells['trace']},429393XXXXXX7715,{cells['day']},120000,{cells['amount']},{cells['currency']},082541,"
            f"{cells['reference']},,ORIGINAL CREDIT,{cells['day']}:1300"
        )

    def file(self, *lines: str) -> str:
        """Visa's report with these lines; covers the days around."""
        around = [self.noon.date() + timedelta(days=days) for days in (-1, 0, 1)]
        others = [f"{day},408999,,SALES DRAFT,,,,1,,{day},120000,1.00,840,,000000000001,,," for day in around]
        self._report.write_text("\n".join((HEADER, *lines, *others)) + "\n", encoding="utf-8")
        return str(self._report)

    def reconciled(self, *lines: str, code: int = 0, with_visa: bool = True, more: Sequence[str] = ()) -> Any:
        """What `reconcile daily` says of the day, with a report of these lines."""
        visa = ("--visa-report", self.file(*lines)) if with_visa else ()
        return self.live.data("reconcile", "daily", "--date", self.date, *visa, *more, code=code)


@pytest.fixture
def day(live: Live, tmp_path: Path) -> Day:
    """A day on which nothing has happened yet."""
    return Day(live, tmp_path / "report.csv")


def by_type(document: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in document["exceptions"]:
        found.setdefault(one["type"], []).append(one["subject"])
    return {kind: sorted(subjects) for kind, subjects in found.items()}


def test_s4_23_a_day_in_which_everything_agrees_is_matched(day: Day) -> None:
    """S4-23: counts, sums per currency, and no exception; the run is a line of the history."""
    rows = [day.sent(PayoutState.PAID) for _ in range(3)]
    document = day.reconciled(*(day.line(row) for row in rows))
    assert (document["matched"], document["unmatched"], document["awaited"]) == (3, 0, 0)
    assert document["states"] == {"PAID": 3}
    assert document["money_minor"]["USD"] == {
        "requested": 3750, "paid": 3750, "ledger": 3750, "visa": 3750, "difference": 0,
    }  # fmt: skip
    assert document["exceptions"] == []
    noted = day.live.data("audit", "tail", "--action", "reconciled")
    (line,) = [one for one in noted if day.date in one["detail"]]
    assert line["actor"] == "tester"
    told = json.loads(line["detail"])
    assert (told["matched"], told["unmatched"], told["awaited"], told["visa_source"]) == (3, 0, 0, "FILE")
    table = day.live.run("reconcile", "daily", "--date", day.date, "--dry-run")
    assert table.exit_code == 0
    assert "37.50 USD" in table.stdout
    assert "Visa's side is not compared" in table.stderr


def test_s4_30_every_mismatch_with_visa_is_found_and_gone_again(day: Day) -> None:
    """S4-30, E6: missing, extra, amount, currency, status; a later run of the day closes what is mended."""
    first, second, third = (day.sent(PayoutState.PAID) for _ in range(3))
    manual = {"compensation": CompensationState.MANUAL, "compensation_version": 2, "compensation_at": day.noon}
    declined = day.sent(PayoutState.DECLINED, **manual)
    unknown = day.sent(PayoutState.UNKNOWN)
    stranger = day.line(first, reference="633212000099", transaction="528706215999999")
    document = day.reconciled(
        day.line(first, amount="12.51"), day.line(second), day.line(second, transaction="528706215777777"),
        day.line(third, currency="978"), day.line(declined), day.line(unknown), stranger,
        code=ExitCode.FOUND,
    )  # fmt: skip
    trace = first.systems_trace_audit_number
    found = {
        "AMOUNT_MISMATCH": [first.payout_id],
        "PAID_TWICE": [second.payout_id],
        "CURRENCY_MISMATCH": [third.payout_id],
        "LEDGER_MISMATCH": [declined.payout_id],
        "COMPENSATION_NOT_TOLD": [declined.payout_id],
        "MISSING_ACK": [unknown.payout_id],
        "NOT_IN_LEDGER": [f"visa RRN 633212000099 STAN {trace}"],
    }
    assert by_type(document) == found
    assert document["unmatched"] == 6
    assert document["money_minor"]["USD"]["difference"] > 0
    assert {one["status"] for one in document["exceptions"]} == {"OPEN"}
    of_day = ("reconcile", "exceptions", "list", "--date", day.date)
    listed = day.live.data(*of_day, "--type", "PAID_TWICE", code=ExitCode.FOUND)
    assert [(one["owner"], one["severity"], one["amount"]) for one in listed] == [("treasury", "MONEY", "12.50 USD")]
    absent = day.reconciled(day.line(first), day.line(second), code=ExitCode.FOUND)
    assert by_type(absent) == {"NOT_AT_VISA": [third.payout_id], "COMPENSATION_NOT_TOLD": [declined.payout_id]}
    mended = day.reconciled(*(day.line(row) for row in (first, second, third)), code=ExitCode.FOUND)
    assert by_type(mended) == {"COMPENSATION_NOT_TOLD": [declined.payout_id]}
    every = day.live.data(*of_day, "--all", code=ExitCode.FOUND)
    gone = {one["type"] for one in every if one["status"] == "GONE"}
    assert gone == {*found, "NOT_AT_VISA"} - {"COMPENSATION_NOT_TOLD"}


def test_s4_23_two_transactions_that_share_an_identifier_are_two(day: Day) -> None:
    """P4: told apart by the approval code; a line that is listed twice is one."""
    paid = day.sent(PayoutState.PAID)
    other = day.line(paid).replace(",082541,", ",082542,")
    assert by_type(day.reconciled(day.line(paid), day.line(paid))) == {}
    assert by_type(day.reconciled(day.line(paid), other, code=ExitCode.FOUND)) == {"PAID_TWICE": [paid.payout_id]}


def test_s4_23_a_run_that_is_told_less_closes_nothing(day: Day) -> None:
    """S4-30: found with a report; without one, or with one that begins later, nobody says that it is gone."""
    paid = day.sent(PayoutState.PAID)
    assert by_type(day.reconciled(code=ExitCode.FOUND, more=())) == {"NOT_AT_VISA": [paid.payout_id]}
    of_day = ("reconcile", "exceptions", "list", "--date", day.date)
    day.reconciled(with_visa=False)
    assert [one["type"] for one in day.live.data(*of_day, code=ExitCode.FOUND)] == ["NOT_AT_VISA"]
    day.reconciled(day.line(paid))
    assert day.live.data(*of_day) == []


def test_s4_23_days_that_were_missed_are_made_up_for(live: Live) -> None:
    """S4-23: a daily job that did not run compares the days since, oldest first, and says which."""
    yesterday = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    answer = live.run("reconcile", "daily", "--catch-up", "--output", "json")
    assert answer.exit_code in (0, ExitCode.FOUND), answer.stderr
    days = [document["day"] for document in json.loads(answer.stdout)]
    assert days == sorted(set(days))
    assert days[-1] == yesterday
    assert yesterday in live.run("audit", "tail", "--action", "reconciled", "--output", "json").stdout
    both = live.run("reconcile", "daily", "--catch-up", "--date", "today")
    assert (both.exit_code, "--catch-up is about many days" in both.stderr) == (ExitCode.USAGE, True)


def test_s4_23_what_others_sent_under_the_same_enrolment_is_none_of_ours(day: Day) -> None:
    """S4-23: another BIN, another card acceptor; Visa's report may hold both."""
    paid = day.sent(PayoutState.PAID)
    strangers = [
        day.line(paid, reference="633212000077", acceptor="ANOTHER"), day.line(paid, bin="400000", amount="99.00"),
    ]  # fmt: skip
    document = day.reconciled(day.line(paid), *strangers)
    assert (document["matched"], document["exceptions"]) == (1, [])
    assert document["money_minor"]["USD"]["difference"] == 0


def test_s4_30_p9_an_exception_is_explained_once_with_a_reason_and_can_be_opened_again(day: Day) -> None:
    """S4-30, P9: planned, explained, told to the second one, opened again; all of it in the history."""
    live = day.live
    day.sent(PayoutState.PAID, told=False)
    (found,) = day.reconciled(with_visa=False, code=ExitCode.FOUND)["exceptions"]
    number = str(found["id"])
    words = ("reconcile", "exceptions", "resolve", number, "--reason", "INC-140: told by telephone")
    planned = live.run(*words, "--dry-run")
    assert (planned.exit_code, "Nothing was changed" in planned.stderr) == (0, True)
    assert live.run(*words, "--yes").exit_code == 0
    assert live.data("reconcile", "exceptions", "list", "--date", day.date) == []
    again = day.reconciled(with_visa=False)["exceptions"]
    assert [one["status"] for one in again] == ["RESOLVED"], "the same is not asked about twice"
    second = live.run(*words, "--yes")
    assert (second.exit_code, "RESOLVED" in second.stderr) == (ExitCode.FOUND, True)
    opened = live.run("reconcile", "exceptions", "reopen", number, "--reason", "INC-140: it was not", "--yes")
    assert opened.exit_code == 0
    assert day.reconciled(with_visa=False, code=ExitCode.FOUND)["exceptions"][0]["status"] == "OPEN"
    for action in ("resolved", "reopened"):
        lines = live.data("audit", "tail", "--action", f"reconciliation_exception_{action}")
        assert [one["actor"] for one in lines if str(json.loads(one["detail"])["exception"]) == number] == ["tester"]
    missing = live.run("reconcile", "exceptions", "resolve", "999999", "--reason", "x", "--yes")
    assert (missing.exit_code, "no exception 999999" in missing.stderr) == (ExitCode.FOUND, True)


def test_p4_what_visa_did_later_to_a_payout_of_before_is_found_on_its_day(live: Live, tmp_path: Path) -> None:
    """S4-30, P4: nothing happened to it here on that day: a late effect, a chargeback of weeks ago."""
    later, before = Day(live, tmp_path / "later.csv"), Day(live, tmp_path / "before.csv")
    manual = {"compensation": CompensationState.MANUAL, "compensation_version": 2, "compensation_at": before.noon}
    first, second = before.sent(PayoutState.DECLINED, **manual), before.sent(PayoutState.PAID)
    late = later.line(first)
    taken_back = later.line(second, state="CRED CHGBK")
    found = by_type(later.reconciled(late, taken_back, code=ExitCode.FOUND))
    assert found == {"LEDGER_MISMATCH": [first.payout_id], "REVERSED_AT_VISA": [second.payout_id]}


def test_s4_30_what_was_told_otherwise_or_not_at_all_is_found(day: Day) -> None:
    """S4-30, K2: an event that tells something else than the row; an end that nobody was told."""
    other = day.sent(PayoutState.PAID, told=False)
    day.tell(other, status="DECLINED")
    untold = day.sent(PayoutState.CANCELLED, told=False, funding_captured=False)
    unowed = day.sent(PayoutState.FAILED)
    found = by_type(day.reconciled(with_visa=False, code=ExitCode.FOUND))
    assert found == {
        "RESULT_DIFFERS": [other.payout_id],
        "RESULT_MISSING": [untold.payout_id],
        "COMPENSATION_MISSING": sorted([unowed.payout_id, untold.payout_id]),
    }


def test_l11_an_event_of_a_payout_that_the_ledger_lost_is_found_on_its_day(live: Live, tmp_path: Path) -> None:
    """S4-30, L11: what a restored ledger has lost was told before; other days do not name it again."""
    today = Day(live, tmp_path / "report.csv", days_ago=0)
    lost = f"lost-{uuid.uuid4().hex[:8]}"
    live.publish("PayoutResult", result_record(lost, version=7), 7)
    found = by_type(today.reconciled(with_visa=False, code=ExitCode.FOUND, more=("--dry-run",)))
    assert found["RESULT_NOT_IN_LEDGER"] == [lost]
    earlier = Day(live, tmp_path / "report.csv")
    assert by_type(earlier.reconciled(with_visa=False, more=("--dry-run",))) == {}


def test_k9_a_committed_request_that_the_ledger_does_not_know_is_found(live: Live, tmp_path: Path) -> None:
    """S4-30, K9: requests of the day are looked up, up to the committed offsets."""
    payout_id = f"rec-{uuid.uuid4().hex[:8]}"
    sent = live.data("send", "-", stdin=json.dumps(request_document(payout_id)).encode())
    assert sent["acknowledged"] == 1
    today = Day(live, tmp_path / "report.csv", days_ago=0)

    def unknown_requests() -> list[str]:
        words = ("reconcile", "daily", "--date", today.date, "--patience", "0", "--dry-run", "--output", "json")
        return by_type(json.loads(live.run(*words).stdout)).get("REQUEST_NOT_IN_LEDGER", [])

    assert unknown_requests() == [], "not committed, so nobody has passed it"
    said = live.run("reconcile", "daily", "--date", today.date, "--patience", "0", "--dry-run").stderr
    assert "the group has committed nothing" in said
    consumer = group_consumer(live.settings)
    places = [TopicPartition(f"{live.prefix}payout_requests", number) for number in range(3)]
    ends = [TopicPartition(p.topic, p.partition, consumer.get_watermark_offsets(p)[1]) for p in places]
    consumer.commit(offsets=ends, asynchronous=False)
    consumer.close()
    assert unknown_requests() == [payout_id]


def test_s4_23_visas_report_is_fetched_over_the_wire(day: Day) -> None:
    """S4-23: the stand-in's Reports API, over mTLS with encrypted messages; an empty report is a report."""
    paid = day.sent(PayoutState.PAID)
    visa = VisaStandIn()
    try:
        visa.start()
        variables: dict[str, Any] = dict(visa.environment())
        words = ("reconcile", "daily", "--date", day.date, "--ask-visa", "--dry-run", "--output", "json")
        answer = day.live.run(*words, **variables)
        assert answer.exit_code == ExitCode.FOUND, answer.stderr
        assert "0 row(s)" in answer.stderr
        assert by_type(json.loads(answer.stdout)) == {"NOT_AT_VISA": [paid.payout_id]}
        password = "a-wrong-password"
        refused = day.live.run(*words, **{**variables, "VISA_PASSWORD": password})
        directory = Path(variables["VISA_CERT_PATH"])
        without = day.live.run(*words, **{**variables, "VISA_CERT_PATH": str(directory) + ".gone"})
    finally:
        visa.stop()
    assert refused.exit_code == ExitCode.UNREACHABLE
    assert "refuses our certificate, user id, password" in refused.stderr
    assert password not in refused.stdout + refused.stderr
    assert (without.exit_code, "Visa cannot be asked" in without.stderr) == (ExitCode.REFUSED, True)
    assert day.live.run("modes", "set", "isolation", "--reason", "a test", "--yes").exit_code == 0
    isolated = day.live.run(*words, **variables)
    assert day.live.run("modes", "set", "normal", "--reason", "a test", "--yes").exit_code == 0
    assert (isolated.exit_code, "in the mode isolation" in isolated.stderr) == (ExitCode.REFUSED, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "report"),
        ("Processing Date,RRN\n", "cannot be read"),
        (f"{HEADER}\n", "has no rows"),
        (f"{HEADER}\n{'x' * 10}\n", "cannot be read"),
        (f"{HEADER}\n2026-01-05,408999,,SALES DRAFT,,,,1,,2026-01-05,120000,1.00,840,,000000000001,,,\n", "not about"),
    ],
    ids=["empty", "no columns", "no rows", "no line", "other days"],
)
def test_a_report_that_cannot_be_right_is_refused_and_nothing_is_kept(
    day: Day, tmp_path: Path, text: str, said: str
) -> None:
    """Bad input gets a clear error: a wrong file would make every payout of the day an exception."""
    before = len(day.live.data("audit", "tail", "--action", "reconciled"))
    (tmp_path / "wrong.csv").write_text(text, encoding="utf-8")
    answer = day.live.run("reconcile", "daily", "--date", day.date, "--visa-report", str(tmp_path / "wrong.csv"))
    assert (answer.exit_code, said in answer.stderr) == (ExitCode.USAGE, True), answer.stderr
    assert len(day.live.data("audit", "tail", "--action", "reconciled")) == before
    both = day.live.run("reconcile", "daily", "--ask-visa", "--visa-report", "-")
    assert (both.exit_code, "contradict" in both.stderr) == (ExitCode.USAGE, True)


def test_s4_24_what_is_open_is_shown_by_age(day: Day) -> None:
    """S4-24: payouts without an end, funding to be handed back and open exceptions, in buckets of age."""
    day.sent(PayoutState.PENDING)
    manual = {"compensation": CompensationState.MANUAL, "compensation_version": 2, "compensation_at": day.noon}
    day.sent(PayoutState.EXPIRED, **manual)
    day.reconciled(with_visa=False, code=ExitCode.FOUND)
    rows = {row["what"]: row for row in day.live.data("reconcile", "aging")}
    buckets = ("under_1_hour", "under_1_day", "under_3_days", "under_7_days", "older")
    assert rows["PENDING"]["payouts"] == sum(rows["PENDING"][name] for name in buckets) == 1
    assert (rows["PENDING"]["under_1_hour"], rows["PENDING"]["under_1_day"]) == (0, 0)
    assert rows["compensation MANUAL"]["payouts"] >= 1
    assert rows["exception COMPENSATION_NOT_TOLD"]["under_1_hour"] >= 1
    assert day.live.data("reconcile", "aging", "--days", "30") == []
    assert day.live.run("reconcile", "aging", "--days", "1").exit_code == ExitCode.FOUND
    table = day.live.run("reconcile", "aging")
    assert (table.exit_code, "1-24 H" in table.stdout) == (0, True)
