"""The Prefect flow `lavise`, deployed as `lavise/full` (see prefect.yaml)."""

from __future__ import annotations

from typing import Any, Literal

import yaml
from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import NonNegativeInt

from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.policy import load_policy
from lavise.flows.audit.results import Occasion
from lavise.flows.orchestration.prefect_runs import audit_here, name_model, to_prefect_log
from lavise.storage.state.environment import find_state_root
from lavise.storage.tracking import open_tracker


def name_run() -> str:
    """The run's name says what is audited."""
    given = flow_run.parameters
    return name_model(str(given.get("config", "demo")), given.get("weights"))


@flow(name="lavise", flow_run_name=name_run, persist_result=False, validate_parameters=True)
def audit(
    config: str = "demo",
    weights: str = "",
    layers: list[str] = [],  # noqa: B006 - never changed; with None the form would ask for the type first
    seed: NonNegativeInt | None = None,
    device: Literal["", "auto", "cpu", "cuda"] = "",
    groups: str = "",
    policy: str = "",
    register_model: bool = False,
    overrides: list[str] = [],  # noqa: B006
) -> Any:
    """Explain every filter of a network in words.

    Args:
        config: a preset (as `lavise presets` lists them) or the path of a YAML file on the worker.
        weights: `random`, `pretrained`, `package:NAME`, or a checkpoint on the worker; empty takes the config's.
        layers: names of the layers to explain; empty takes the config's.
        seed: of everything that is drawn; empty takes the config's.
        device: auto takes the GPU where there is one; empty takes the config's.
        groups: pictures to compare: folder, csv:FILE:COLUMN or annotations:PREDICATE (docs/method.md); empty takes the
            config's.
        policy: rules that the audit must pass: `default`, or the path of a YAML file on the worker; empty for none.
        register_model: register the explainer in MLflow as `lavise-explainer`.
        overrides: any other settings, in the form `section.key=value`, as with `lavise run --set`.
    """
    chosen = {
        "model.weights": weights,
        "model.layers": layers,
        "seed": seed,
        "device": device,
        "bias.groups": groups,
    }
    with to_prefect_log() as log:
        try:
            settings = load_config(config, [*_as_overrides(chosen, register_model), *overrides])
            rules = load_policy(policy) if policy else None
            tracker = open_tracker(settings.tracking, find_state_root(settings.storage.root))
            tags = {"prefect.flow_run_id": str(flow_run.id or "")}
            result = audit_here(settings, tracker, Occasion(tags, policy=rules, run_name=flow_run.name or None))
        except UserError as err:
            # A mistake of the user's: the clear line is the state's message, and no stack trace.
            log.error("%s", err)
            return Failed(message=str(err))
    passed = f"policy {result.gate}; " if result.gate else ""
    where = f"MLflow run {result.run_id}, report {result.run_dir / 'report.html'}"
    return Completed(message=f"{result.verdict}; {passed}{where}")


def _as_overrides(chosen: dict[str, Any], register_model: bool) -> list[str]:
    """What was filled in, as `section.key=value`; what was left empty is the config's."""
    given = {k: v for k, v in chosen.items() if v not in (None, "", [])}
    if register_model:
        given["tracking.register_model"] = True
    return [f"{key}={yaml.safe_dump(value)}" for key, value in given.items()]
