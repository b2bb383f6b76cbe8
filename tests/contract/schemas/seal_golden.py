"""Fills in the bytes of golden records that have none yet; never changes one that has.

For a new version of a record: write golden/<Record>.v<N>[.<label>].json with a "record" (times as ISO 8601 text),
then run `python tests/contract/schemas/seal_golden.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from schemas import catalog
from schemas.codec import Codec, PinnedResolver

GOLDEN = Path(__file__).parent / "golden"


def with_times(value: Any, name: str = "") -> Any:
    """The record of a golden file with its times, fields named at or *_at, as datetimes."""
    if isinstance(value, dict):
        return {key: with_times(item, key) for key, item in value.items()}
    is_time = isinstance(value, str) and (name == "at" or name.endswith("_at"))
    return datetime.fromisoformat(value) if is_time else value


def seal(path: Path) -> bool:
    """Completes one file; says whether it had to."""
    golden = json.loads(path.read_text("utf-8"))
    if "hex" in golden:
        return False
    name, version = path.name.split(".")[:2]
    if int(version[1:]) != catalog.versions(name)[-1]:
        raise SystemExit(f"{path.name}: only the newest version can be written")
    data = asyncio.run(Codec(PinnedResolver()).encode(name, with_times(golden["record"])))
    sha256 = hashlib.sha256(catalog.schema_text(name).encode()).hexdigest()
    sealed = {"schema_sha256": sha256, "hex": data.hex(), "record": golden["record"]}
    path.write_text(json.dumps(sealed, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return True


if __name__ == "__main__":
    sys.stderr.write(f"sealed {sum([seal(path) for path in sorted(GOLDEN.glob('*.json'))])} files\n")
