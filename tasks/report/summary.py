"""What is said of a whole audit: the heading of the report, and a few lines for MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lavise.configs.schema import Config, OpenMojiReference, OpenMojiTarget
from lavise.storage.datasets.base import Dataset
from lavise.tasks.inputs.scenes import OPENMOJI_ATTRIBUTION
from lavise.tasks.report.verdict import list_sentences


@dataclass(frozen=True)
class Compared:
    """An earlier audit that this one was compared with; the summary of what changed by layer."""

    run_id: str
    title: str
    layers: Mapping[str, Mapping[str, Any]]


def describe_audit(config: Config, model: str, train: Dataset, evaluation: Dataset, target: Dataset) -> dict[str, str]:
    """Lines of the report's heading, label -> text.

    Args:
        model: the target model and its weights.
    """
    explain = config.explain
    facts = {
        "Audit": config.name,
        "Target model": model,
        "Reference": f"{train.name}: {len(train.records)} pictures to train, {len(evaluation.records)} to evaluate, "
        f"{len(train.concepts)} categories",
        "Target domain": f"{target.name}: {len(target.records)} pictures, no labels read",
        "Explanation": f"{explain.method.replace('_', ' ')}, {explain.top_images} top pictures, "
        f"{config.explainer.kind} explainer, {config.train.objective} objective, transfer {config.transfer.method}, "
        f"seed {config.seed}",
    }
    if notes := _describe_reading(train, evaluation, target):
        facts["How data were read"] = notes
    if isinstance(config.reference, OpenMojiReference) or isinstance(config.target, OpenMojiTarget):
        facts["Pictures"] = OPENMOJI_ATTRIBUTION
    return facts


def _describe_reading(*parts: Dataset) -> str:
    """What data sets note of how they were read and what they left out; empty where they were read as they stand."""
    said = []
    for part in parts:
        left_out = [f"{number:,} left out ({reason})" for reason, number in sorted(part.list_left_out())]
        if notes := [*part.notes, *left_out]:
            said.append(f"{part.name}: {'; '.join(notes)}")
    return ". ".join(said)


def describe_run(
    by_layer: Mapping[str, Mapping[str, Any]], compared: Compared | None, run_id: str = "", place: str | None = None
) -> str:
    """What came of the audit, in a few lines of markdown; MLflow shows it as the run's description.

    Args:
        by_layer: of metrics.json.
        place: of the run in MLflow's pages, as `experiments/1/runs/ID`, for links and a picture; these are relative, so
            that they hold on whatever server shows the store.
    """
    lines = []
    for layer, found in by_layer.items():
        first, *others = list_sentences(found)
        lines.append(f"- `{make_plain(layer)}`: **{_make_sentence_plain(first)}**")
        lines += [f"  - {_make_sentence_plain(sentence)}" for sentence in others]
    if compared:
        lines.append(f"- compared with run `{compared.run_id}` ({make_plain(compared.title)}):")
        lines += [f"  - `{make_plain(layer)}`: {_count_changes(own)}" for layer, own in compared.layers.items()]
    if place is None:
        return "\n".join([*lines, "- look at report.html, overview.png and tables/ among the artifacts"])
    links = (("report", "report.html"), ("filters", "tables/filters.json"), ("words", "tables/explanations.json"))
    shown = ", ".join(f"[{text}](#/{place}/artifacts/{path})" for text, path in links)
    picture = f"![The most confident filters](get-artifact?path=overview.png&run_uuid={run_id})"
    return "\n".join([f"- look at: {shown}", *lines, "", picture])


def summarise_changes(layers: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for all layers, as a tag: `bn2: 1280 filters the same, 0 changed, 0 lost, 0 new`."""
    return "; ".join(f"{layer}: {_count_changes(own)}" for layer, own in layers.items())


def _count_changes(found: Mapping[str, Any]) -> str:
    return (
        f"{found['num_same']} filters the same, {found['num_changed']} changed, {found['num_lost']} lost, "
        f"{found['num_new_filters']} new"
    )


def make_plain(text: str, further: str = "") -> str:
    """Names from data, without what markdown would obey.

    Args:
        further: characters that may stay.
    """
    return "".join(c if c.isalnum() or c in " .,-_/" or c in further else "\ufffd" for c in text)


def _make_sentence_plain(text: str) -> str:
    """A sentence of ours, which may hold names: without links and markup, but with what sentences are written with."""
    return ": ".join(make_plain(part, "%;'()") for part in text.split(": "))
