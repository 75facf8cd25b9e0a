"""Opens the data sets that an audit reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lavise.configs.schema import (
    CocoReference,
    Config,
    ImageFolderReference,
    ImageFolderTarget,
    OpenMojiReference,
    VisualGenomeReference,
)
from lavise.storage.datasets.base import Dataset, Reference
from lavise.storage.datasets.coco import load_coco_reference
from lavise.storage.datasets.image_folder import load_image_folder_reference, load_image_folder_target
from lavise.storage.datasets.visual_genome import load_visual_genome_reference
from lavise.storage.state.digest import short
from lavise.storage.state.progress import Progress
from lavise.storage.tracking import DatasetFacts
from lavise.tasks.engine.stage import StageRunner
from lavise.tasks.inputs import scenes


@dataclass(frozen=True)
class Inputs:
    """The three data sets of an audit, with their digests: of everything, and of the pictures alone."""

    train: Dataset
    evaluation: Dataset
    target: Dataset
    digests: dict[str, str]
    picture_digests: dict[str, str]

    def describe(self, sources: dict[str, str]) -> list[DatasetFacts]:
        """For tracking."""
        return [
            DatasetFacts(data.name, self.digests[role], sources[role], role, len(data.records))
            for role, data in (("train", self.train), ("evaluation", self.evaluation), ("target", self.target))
        ]


def open_inputs(config: Config, runner: StageRunner, progress: Progress) -> Inputs:
    """Read the reference and the target; scenes are drawn first where the settings ask for them.

    Raises:
        UserError: whatever is missing or wrong in the data.
    """
    reference = _open_reference(config, runner, progress)
    target = open_target(config, runner, progress)
    parts = {"train": reference.train, "evaluation": reference.evaluation, "target": target}
    pictures = {role: data.digest_pictures(progress) for role, data in parts.items()}
    digests = {role: data.compute_digest(pictures[role]) for role, data in parts.items()}
    return Inputs(reference.train, reference.evaluation, target, digests, pictures)


def take_images(inputs: Inputs, num: int, progress: Progress) -> Inputs:
    """The first `num` pictures of each part; the same inputs where there are no more anyway."""
    parts: dict[str, Dataset] = {role: getattr(inputs, role) for role in inputs.digests}
    if all(len(data.records) <= num for data in parts.values()):
        return inputs
    parts = {role: replace(data, records=data.records[:num]) for role, data in parts.items()}
    pictures = {role: data.digest_pictures(progress) for role, data in parts.items()}
    digests = {role: data.compute_digest(pictures[role]) for role, data in parts.items()}
    return Inputs(**parts, digests=digests, picture_digests=pictures)


def describe_sources(config: Config, runner: StageRunner) -> dict[str, str]:
    """Where each data set comes from, for people."""

    def source(settings: object, title: str) -> str:
        root = getattr(settings, "root", None)
        if isinstance(root, Path):
            return str(root.resolve())
        return f"openmoji scenes {short(runner.outcomes[title].digest)}"

    reference = source(config.reference, "scenes reference")
    return {"train": reference, "evaluation": reference, "target": source(config.target, "scenes target")}


def _open_reference(config: Config, runner: StageRunner, progress: Progress) -> Reference:
    settings = config.reference
    if isinstance(settings, CocoReference):
        return load_coco_reference(settings)
    if isinstance(settings, VisualGenomeReference):
        return load_visual_genome_reference(settings, config.seed)
    if isinstance(settings, ImageFolderReference):
        return load_image_folder_reference(settings, config.seed)
    assert isinstance(settings, OpenMojiReference)
    splits = {"train": settings.train_scenes, "evaluation": settings.evaluation_scenes}
    size = settings.size_px
    handle = runner.run_one(
        scenes.STAGE,
        "scenes reference",
        scenes.request_scenes(splits, size, config.seed),
        lambda folder: scenes.draw_scenes(splits, size, config.seed, folder, progress),
    )
    return Reference(scenes.load_scenes(handle, "train"), scenes.load_scenes(handle, "evaluation"))


def open_target(config: Config, runner: StageRunner, progress: Progress) -> Dataset:
    """The unlabelled pictures; scenes are drawn first where the settings ask for them."""
    settings = config.target
    if isinstance(settings, ImageFolderTarget):
        return load_image_folder_target(settings)
    splits, size = {"target": settings.scenes}, settings.size_px
    handle = runner.run_one(
        scenes.STAGE,
        "scenes target",
        scenes.request_scenes(splits, size, config.seed),
        lambda folder: scenes.draw_scenes(splits, size, config.seed, folder, progress),
    )
    return scenes.load_scenes(handle, "target").without_labels()
