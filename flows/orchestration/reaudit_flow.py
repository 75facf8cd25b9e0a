"""The Prefect flow `lavise-reaudit`, deployed as `lavise-reaudit/nightly` and `lavise-reaudit/watch`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.policy import load_policy
from lavise.configs.schema import Config
from lavise.configs.sources import CheckpointSource, FolderSource, make_source_type
from lavise.flows.audit.results import Occasion
from lavise.flows.orchestration.prefect_artifacts import publish_reaudit
from lavise.flows.orchestration.prefect_runs import audit_here, name_model, to_prefect_log
from lavise.flows.repeats.reaudit import Reaudit, failed_outcomes
from lavise.flows.shared.results import RunResult
from lavise.storage.state.environment import find_state_root
from lavise.storage.state.progress import log_progress
from lavise.storage.tracking import open_tracker

if TYPE_CHECKING:
    _AnySource = CheckpointSource
else:
    _AnySource = make_source_type()


def name_run() -> str:
    """The run's name says what is looked through, and with which config."""
    given = flow_run.parameters
    source = given.get("source")
    where = source.describe() if isinstance(source, CheckpointSource) else "checkpoints"
    return f"{name_model(str(given.get('config', 'demo')), None)} on {where}"


@flow(name="lavise-reaudit", flow_run_name=name_run, persist_result=False, validate_parameters=True)
def reaudit(
    config: str = "demo",
    source: _AnySource = FolderSource(folder=Path("checkpoints")),  # noqa: B008 - frozen
    policy: str = "",
    overrides: list[str] = [],  # noqa: B006 - never changed; with None the form would ask for the type first
) -> Any:
    """Audit each new checkpoint of a folder or of a registered model, and say what changed since the last one.

    Args:
        config: a preset (as `lavise presets` lists them) or the path of a YAML file on the worker; its
            model.weights is replaced by each checkpoint in turn.
        source: where checkpoints come from: a folder on the worker, or a registered model in MLflow.
        policy: rules that each audit must pass: `default`, or the path of a YAML file on the worker; empty for none.
        overrides: settings in the form `section.key=value`, as with `lavise run --set`.
    """
    with to_prefect_log() as log:
        try:
            settings = load_config(config, overrides)
            rules = load_policy(policy) if policy else None
            root = find_state_root(settings.storage.root)
            tracker = open_tracker(settings.tracking, root)

            def audit(chosen: Config, occasion: Occasion) -> RunResult:
                return _audit_as_subflow(chosen, occasion, tracker)

            result = Reaudit(settings, source, rules, tracker, root, log_progress, audit).run()
        except UserError as err:
            log.error("%s", err)
            return Failed(message=str(err))
        try:
            publish_reaudit(result, tracker)
        except Exception as err:  # noqa: BLE001 - whatever Prefect's client raises: the audits have ended well without
            log.warning("the table of checkpoints could not be shown in Prefect: %s", err)
    if failed_outcomes(result):
        return Failed(message=result.summarise())
    return Completed(message=result.summarise())


def _audit_as_subflow(config: Config, occasion: Occasion, tracker: Any) -> RunResult:
    """A flow run of its own for each checkpoint, below the re-audit's, with its stages and pictures."""
    title = f"{config.name} {occasion.checkpoint_name}"

    # The title is from data, and Prefect reads braces in a run's name as a template.
    @flow(name="lavise-checkpoint", flow_run_name=lambda: title, persist_result=False)
    def audit_checkpoint() -> RunResult:
        tags = {**occasion.tags, "prefect.flow_run_id": str(flow_run.id or "")}
        return audit_here(config, tracker, replace(occasion, tags=tags))

    return audit_checkpoint()
