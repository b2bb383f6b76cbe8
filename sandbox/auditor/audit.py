"""One call from what a run left behind to its verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sandbox.auditor.collect import TopicReader, read_ledger, read_stand_in
from sandbox.auditor.evidence import Evidence, read_journal
from sandbox.auditor.leak import CardNumberSearch, scan_paths
from sandbox.auditor.verdict import FaultCounts, Verdict, judge
from schemas.codec import BlockingCodec

NO_FAULTS = FaultCounts()


def audit(
    journal: Path,
    *,
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
) -> Verdict:
    """Read all evidence of a settled run and judge it. Blocks; not to be called inside an event loop.

    `journal` is what the producers wrote with `append_accepted`; `fingerprint_key` the content of the stand-in's
    `credentials/fingerprint.key`; `card_numbers` the run's own, digits only; `scan` the files and directories to
    search for them, `excepted_topics` and `excepted_files` what a test planted one in. The journal itself is never
    searched. `schema_registry_url` is the registry that the run used, None for the repository's pinned ids.

    Raises EvidenceIncomplete, ScanFailed, JournalUnreadable, RegistryUnavailable, OSError: then there is no verdict.
    """
    evidence = Evidence(fingerprint_key, accepted=read_journal(journal))
    # Read before the topics only for its identifiers, and again after them: it is append-only.
    entries = read_stand_in(stand_in_admin_url)
    identifiers = {entry.transaction_identifier for entry in entries}
    search = CardNumberSearch(card_numbers, transaction_identifiers=identifiers)
    with BlockingCodec(schema_registry_url, topic_prefix=topic_prefix) as codec:
        TopicReader(
            evidence,
            search,
            codec,
            bootstrap_servers=bootstrap_servers,
            topic_prefix=topic_prefix,
            excepted_topics=excepted_topics,
        ).read()
    asyncio.run(read_ledger(evidence, search, database_url, topic_prefix=topic_prefix))
    last = entries[-1].entry_id if entries else 0
    evidence.entries = entries + read_stand_in(stand_in_admin_url, after=last)
    evidence.leaks.extend(scan_paths(search, scan, excepted=[journal, *excepted_files]))
    return judge(evidence, stuck_after_seconds=stuck_after_seconds, now=datetime.now(UTC), faults=faults)
