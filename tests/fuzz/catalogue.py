"""Every fuzz target by its name."""

from collections.abc import Mapping
from typing import Final

from tests.fuzz.harness import Target
from tests.fuzz.targets import boxes, contracts, files, pipeline, texts, visa, visa_accounts, visa_report

TARGETS: Final[tuple[Target, ...]] = (
    *contracts.TARGETS,
    *boxes.TARGETS,
    *visa.TARGETS,
    *visa_accounts.TARGETS,
    *visa_report.TARGETS,
    *files.TARGETS,
    *pipeline.TARGETS,
    *texts.TARGETS,
)
BY_NAME: Final[Mapping[str, Target]] = {target.name: target for target in TARGETS}
