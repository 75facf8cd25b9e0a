"""Opens the data sets that an audit reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lavise.configs.drawn_pictures import Drawn
from lavise.configs.errors import UserError
from lavise.configs.roles import Role
from lavise.configs.schema import (
    CombinedReference,
    Config,
    OpenMojiReference,
    OpenMojiTarget,
    PatternsReference,
    PatternsTarget,
    ReferenceSettings,
    TargetSettings,
)
from lavise.storage.datasets.base import Dataset, Reference
from lavise.storage.datasets.formats import find_format, find_target_format
from lavise.storage.datasets.input_images import COLOUR_CHANNELS
from lavise.storage.images.picture_files import describe_left_out
from lavise.storage.state.digest import short
from lavise.storage.state.memory import give_memory_back
from lavise.storage.state.progress import Progress
from lavise.storage.state.text import printable
from lavise.storage.tracking import DatasetFacts
from lavise.tasks.engine.stage import StageRunner
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.inputs import pattern_pictures, scenes

log = logging.getLogger("lavise")
# Both parts of the reference are drawn together.
_REFERENCE = "reference"


@dataclass(frozen=True)
class Inputs:
    """The three data sets of an audit, with their digests: of everything, and of the pictures alone."""

    train: Dataset
    evaluation: Dataset
    target: Dataset
    digests: dict[Role, str]
    image_digests: dict[Role, str]

    def of(self, role: Role) -> Dataset:
        """The data set of that role."""
        return {Role.TRAIN: self.train, Role.EVALUATION: self.evaluation, Role.TARGET: self.target}[role]

    def data(self, role: Role) -> Given[Dataset]:
        """With its masks and categories, as stages read it."""
        return Given(self.of(role), self.digests[role])

    def pictures(self, role: Role) -> Given[Dataset]:
        """For stages that read the pictures alone."""
        return Given(self.of(role), self.image_digests[role])

    def describe(self, sources: dict[Role, str]) -> list[DatasetFacts]:
        """For tracking."""
        return [
            DatasetFacts(
                self.of(role).name,
                self.digests[role],
                sources[role],
                role.value,
                len(self.of(role).records),
                self.of(role).notes,
            )
            for role in Role
        ]

    def collect_notes(self) -> dict[Role, list[str]]:
        """What was noted while data were read, by part; of parts where there is something."""
        return {role: list(self.of(role).notes) for role in Role if self.of(role).notes}


def check_bands(config: Config, channels: int) -> None:
    """That the pictures can have the bands that the network takes, and those that the report shows.

    Args:
        channels: of the network's input.

    Raises:
        UserError: scenes in colours for a network of bands, or bands that there are not.
    """
    if channels not in COLOUR_CHANNELS:
        parts: list[tuple[str, ReferenceSettings | TargetSettings]] = [
            ("reference", config.reference),
            ("target", config.target),
        ]
        for role, settings in parts:
            if isinstance(settings, Drawn):
                raise UserError(
                    f"{role}.kind: found {settings.kind}, drawn in red, green and blue; the network takes {channels} "
                    "bands; allowed: pictures of yours with as many bands, in TIFF files"
                )
    bands = config.report.bands
    if bands is not None and (channels in COLOUR_CHANNELS or max(bands) > channels):
        what = "pictures in colours" if channels in COLOUR_CHANNELS else f"bands 1 to {channels}"
        raise UserError(
            f"report.bands: found {list(bands)}; the network takes {what}; leave it empty, or name its bands"
        )


def open_inputs(config: Config, runner: StageRunner, progress: Progress) -> Inputs:
    """Read the reference and the target; scenes are drawn first where the settings ask for them.

    Raises:
        UserError: whatever is missing or wrong in the data.
    """
    reference = _open_reference(config, runner, progress)
    target = open_target(config, runner, progress)
    for role, part in (("reference", reference.train), ("reference", reference.evaluation), ("target", target)):
        log_reading(role, part)
    parts = {Role.TRAIN: reference.train, Role.EVALUATION: reference.evaluation, Role.TARGET: target}
    inputs = _digest(parts, progress)
    give_memory_back()
    return inputs


def log_reading(role: str, dataset: Dataset) -> None:
    """What was decided and left out while a data set was read, a line each."""
    for line in [*dataset.notes, *(f"left out {describe_left_out({r: n})}" for r, n in dataset.left_out.items())]:
        log.warning("  %s %s: %s", role, printable(dataset.name), line)


def take_images(inputs: Inputs, num: int, progress: Progress) -> Inputs:
    """The first `num` pictures of each part; the same inputs where there are no more anyway."""
    if all(len(inputs.of(role).records) <= num for role in Role):
        return inputs
    return _digest({r: replace(inputs.of(r), records=inputs.of(r).records[:num]) for r in Role}, progress)


def _digest(parts: Mapping[Role, Dataset], progress: Progress) -> Inputs:
    pictures = {role: parts[role].digest_images(progress) for role in Role}
    digests = {role: parts[role].compute_digest(pictures[role]) for role in Role}
    return Inputs(parts[Role.TRAIN], parts[Role.EVALUATION], parts[Role.TARGET], digests, pictures)


def describe_sources(config: Config, runner: StageRunner) -> dict[Role, str]:
    """Where each data set comes from, for people."""

    def source(settings: ReferenceSettings | TargetSettings, role: str) -> str:
        if isinstance(settings, CombinedReference):
            return ", ".join(str(part.root.resolve()) for part in settings.sources)
        if isinstance(settings, OpenMojiReference | OpenMojiTarget):
            return f"openmoji scenes {short(runner.find(scenes.STAGE, role).digest)}"
        if isinstance(settings, PatternsReference | PatternsTarget):
            return f"patterns {short(runner.find(pattern_pictures.STAGE, role).digest)}"
        return str(settings.root.resolve())

    reference, target = source(config.reference, _REFERENCE), source(config.target, Role.TARGET)
    return {Role.TRAIN: reference, Role.EVALUATION: reference, Role.TARGET: target}


def _open_reference(config: Config, runner: StageRunner, progress: Progress) -> Reference:
    settings = config.reference
    if isinstance(settings, OpenMojiReference):
        sizes = settings.train_scenes, settings.evaluation_scenes
        train, evaluation = _draw_scenes(config, runner, progress, _REFERENCE, settings.size_px, _split(*sizes))
        return Reference(train, evaluation)
    if isinstance(settings, PatternsReference):
        sizes = settings.train_images, settings.evaluation_images
        train, evaluation = _draw_patterns(config, runner, progress, _REFERENCE, settings.image_px, _split(*sizes))
        return Reference(train, evaluation)
    return find_format(settings.kind).read(settings, config.seed)


def _split(num_train: int, num_evaluation: int) -> dict[str, int]:
    return {Role.TRAIN: num_train, Role.EVALUATION: num_evaluation}


def open_target(config: Config, runner: StageRunner, progress: Progress) -> Dataset:
    """The unlabelled pictures; they are drawn first where the settings ask for that."""
    found = open_labelled_target(config, runner, progress)
    return found.without_labels() if isinstance(config.target, Drawn) else found


def open_labelled_target(config: Config, runner: StageRunner, progress: Progress) -> Dataset:
    """The same with the labels that drawn pictures have: for benchmarks, an audit does not read them."""
    settings = config.target
    if isinstance(settings, OpenMojiTarget):
        return _draw_scenes(config, runner, progress, Role.TARGET, settings.size_px, {Role.TARGET: settings.scenes})[0]
    if isinstance(settings, PatternsTarget):
        splits: dict[str, int] = {Role.TARGET: settings.images}
        return _draw_patterns(config, runner, progress, Role.TARGET, settings.image_px, splits)[0]
    return find_target_format(settings.kind).read(settings)


def _draw_scenes(
    config: Config, runner: StageRunner, progress: Progress, role: str, size_px: int, splits: dict[str, int]
) -> list[Dataset]:
    """OpenMoji scenes, a data set for each split."""
    inputs = scenes.SceneInputs(splits, size_px, config.seed, progress)
    handle = runner.run_one(scenes.STAGE, f"scenes {role}", inputs, scenes.draw_scenes, role=role)
    return [scenes.load_scenes(handle, split) for split in splits]


def _draw_patterns(
    config: Config, runner: StageRunner, progress: Progress, role: str, size_px: int, splits: dict[str, int]
) -> list[Dataset]:
    """Mosaics of patterns, a data set for each split."""
    inputs = pattern_pictures.PatternInputs(splits, size_px, config.seed, progress)
    handle = runner.run_one(
        pattern_pictures.STAGE, f"patterns {role}", inputs, pattern_pictures.draw_patterns, role=role
    )
    return [pattern_pictures.load_patterns(handle, split) for split in splits]
