"""One call from what a run left behind to its verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sandbox.auditor.collect import read_ledger, read_stand_in, scan_pages
from sandbox.auditor.evidence import Evidence, collection_paused, read_journal
from sandbox.auditor.leak import CardNumberSearch, scan_paths
from sandbox.auditor.topics import read_topics
from sandbox.auditor.verdict import FaultCounts, Verdict, judge

NO_FAULTS = FaultCounts()


def read_life(
    journal: Path,
    *,
    bootstrap_servers: str,
    stand_in_admin_url: str,
    topic_prefix: str = "",
    card_numbers: Sequence[str],
    say: Callable[[str], None] = lambda _: None,
) -> Evidence:
    """What a cluster holds that is about to be lost: `audit` takes it as `earlier`, and judges both lives together.

    Nobody may write meanwhile. Raises as `audit` does.
    """
    with collection_paused():
        evidence = Evidence(b"", accepted=read_journal(journal))
        identifiers = {entry.transaction_identifier for entry in read_stand_in(stand_in_admin_url)}
        search = CardNumberSearch(card_numbers, transaction_identifiers=identifiers)
        read_topics(evidence, search, bootstrap_servers=bootstrap_servers, topic_prefix=topic_prefix, say=say)
        return evidence


def audit(
    journal: Path,
    *,
    earlier: Evidence | None = None,
    bootstrap_servers: str,
    database_url: str,
    stand_in_admin_url: str,
    fingerprint_key: bytes,
    topic_prefix: str = "",
    card_numbers: Sequence[str],
    scan: Sequence[Path],
    excepted_topics: Collection[str] = (),
    excepted_files: Collection[Path] = (),
    stuck_after_seconds: float,
    faults: FaultCounts = NO_FAULTS,
    schema_registry_url: str | None = None,
    scan_urls: Collection[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Read all evidence of a settled run and judge it. Blocks; not to be called inside an event loop.

    `journal` is what the producers wrote with `append_accepted`; `fingerprint_key` the content of the stand-in's
    `credentials/fingerprint.key`; `card_numbers` the run's own, digits only; `scan` the files and directories to
    search for them, `excepted_topics` and `excepted_files` what a test planted one in; `scan_urls` pages to search,
    such as the workers' metrics. The journal itself is never searched. `earlier` is what `read_life` found in a cluster
    that was lost since; the journal is then that of the new one alone: what the old one acknowledged stands at its old
    place, put back from a backup, or was sent again as it was, or is lost. `schema_registry_url` is the registry that
    the run used, None for the repository's pinned ids. `say` is told the progress, a sentence every few seconds.

    A run of more than 50,000 records is read with the help of a second process, so a script that calls this needs its
    `if __name__ == "__main__":`.

    Raises EvidenceIncomplete, ScanFailed, JournalUnreadable, RegistryUnavailable, OSError: then there is no verdict.
    """
    with collection_paused():
        say("journal: reading")
        evidence = Evidence(fingerprint_key, accepted=read_journal(journal), earlier=earlier)
        # Read before the topics only for its identifiers, and again after them: it is append-only.
        entries = read_stand_in(stand_in_admin_url, say=say)
        identifiers = {entry.transaction_identifier for entry in entries}
        search = CardNumberSearch(card_numbers, transaction_identifiers=identifiers)
        read_topics(
            evidence,
            search,
            bootstrap_servers=bootstrap_servers,
            topic_prefix=topic_prefix,
            excepted_topics=excepted_topics,
            schema_registry_url=schema_registry_url,
            say=say,
        )
        asyncio.run(read_ledger(evidence, search, database_url, topic_prefix=topic_prefix, say=say))
        last = entries[-1].entry_id if entries else 0
        evidence.entries = entries + read_stand_in(stand_in_admin_url, after=last, say=say)
        evidence.leaks.extend(scan_pages(search, scan_urls))
        say("files: searching")
        evidence.leaks.extend(scan_paths(search, scan, excepted=[journal, *excepted_files]))
        say("judging")
        return judge(evidence, stuck_after_seconds=stuck_after_seconds, now=datetime.now(UTC), faults=faults)
