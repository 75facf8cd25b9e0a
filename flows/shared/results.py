"""What an audit says of itself when it has ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from lavise.tasks.history.metric_names import spell_numbers


class StageFacts(TypedDict):
    """What came of a stage: the digest of its artefacts, and whether they were there already."""

    digest: str
    cached: bool
    seconds: float


@dataclass(frozen=True)
class RunResult:
    """What `lavise run --json` prints.

    Attributes:
        gate: whether the audit passed its policy, `passed` or `failed`; None where it had none.
        verdict: what came of it, in a line.
    """

    run_id: str
    tracking_uri: str | None
    run_dir: Path
    metrics: dict[str, float]
    stages: dict[str, StageFacts]
    images_decoded: int
    predecessor: str | None = None
    gate: str | None = None
    verdict: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(spell_numbers({**vars(self), "run_dir": str(self.run_dir)}), allow_nan=False)
