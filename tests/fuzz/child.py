"""One target in one process, under atheris: started by `tests.fuzz`, which says what it is told on the command line."""

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from random import Random
from typing import Final

import atheris

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
RSS_EVERY_SECONDS: Final = 5.0
EXIT_FINDING: Final = 77
MUTATED_WITH_STRUCTURE: Final = 0.6
INSTRUMENTED: Final = (
    "schemas",
    "processors",
    "ledger",
    "streams",
    "ops",
    "yaml",
    "jwcrypto",
    "h11",
    "tests.fuzz.targets",
)
"""Ours, and the pure Python that does the parsing for us: their branches are what guides the fuzzer."""

with atheris.instrument_imports(include=list(INSTRUMENTED)):
    from tests.fuzz.catalogue import BY_NAME
    from tests.fuzz.corpus import name_of
    from tests.fuzz.harness import UNCAUGHT, Target, execute, watch_logs


def resident_bytes() -> int:
    """Memory that this process has in use now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES


def _note_memory(path: Path) -> None:
    """A line of (seconds, bytes) every few seconds: the runner looks for growth."""
    begun = time.monotonic()
    with path.open("w", encoding="ascii") as file:
        while True:
            file.write(json.dumps([round(time.monotonic() - begun, 1), resident_bytes()]) + "\n")
            file.flush()
            time.sleep(RSS_EVERY_SECONDS)


def _one(target: Target, data: bytes, faults: Path) -> None:
    """Keep an input that shows a fault, and end: the interpreter's own way down may wait for a loop for ever."""
    try:
        execute(target, data)
    except Exception:  # noqa: BLE001 - whatever comes out is the finding
        print(UNCAUGHT, flush=True)  # noqa: T201
        traceback.print_exc()
        (faults / f"crash-{name_of(data)}").write_bytes(data)
        os._exit(EXIT_FINDING)


def main() -> None:
    """`child NAME MEMORY_FILE FAULTS_FOLDER LIBFUZZER_ARGUMENT …`: never returns."""
    name, memory_file, faults, *arguments = sys.argv[1:]
    target = BY_NAME[name]
    watch_logs()
    # Keys, policies and loops are made before anything is counted or timed.
    for seed in target.seeds():
        execute(target, seed)
        break
    threading.Thread(target=_note_memory, args=(Path(memory_file),), daemon=True).start()

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if target.mutate is None or random.random() >= MUTATED_WITH_STRUCTURE:
            return bytes(atheris.Mutate(data, max_size))
        return target.mutate(data, random)[:max_size]

    # For a merge libFuzzer starts itself anew, by a shell and by its first argument.
    myself = f"{sys.executable} -m tests.fuzz.child {name} {memory_file} {faults}"
    atheris.Setup([myself, *arguments], lambda data: _one(target, data, Path(faults)), custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
