"""What an audit is part of, and what it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavise.configs.policy import Policy
from lavise.configs.schema import Config
from lavise.flows.audit.layer_context import LayerResult
from lavise.flows.past_audits.compare import Comparison
from lavise.flows.past_audits.past_runs import PastRun
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import Handle
from lavise.tasks.engine.stage import StageOutcome


@dataclass(frozen=True)
class Occasion:
    """What an audit is part of, besides its settings.

    Attributes:
        tags: of the audit's run, besides its own.
        checkpoint_name: for people, where the weights are a snapshot of a file with another name.
        predecessor: the audit to compare with.
        policy: the rules that the audit must pass.
        comparison_expected: there is an audit to compare with, even if its files are away; without the comparison no
            policy can be passed.
        run_name: of its run; None makes one of the audit's name and its checkpoint's.
        artefacts: folder to keep artefacts in, where nothing that is there already may be used.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    checkpoint_name: str | None = None
    predecessor: PastRun | None = None
    policy: Policy | None = None
    artefacts: Path | None = None
    comparison_expected: bool = False
    run_name: str | None = None


@dataclass(frozen=True)
class EndedAudit:
    """All that an audit made, before it is written down for people."""

    config: Config
    occasion: Occasion
    outcomes: Mapping[str, StageOutcome]
    vocabulary: Handle
    results: Sequence[LayerResult]
    comparison: Comparison | None
    page: Handle
    environment: Mapping[str, Any]
    inputs: Mapping[str, Any]
    skipped: Mapping[str, Any]
    images_decoded: int
    model: TargetModel
