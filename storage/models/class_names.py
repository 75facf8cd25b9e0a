"""Names of a classifier's classes, and their word vectors: what the head of a target model can say in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lavise.configs.base import TRANSFORMERS
from lavise.configs.errors import UserError
from lavise.configs.schema import ModelSettings
from lavise.storage.array_types import FloatArray
from lavise.storage.models.transformers_networks import list_labels
from lavise.storage.words.word_vectors import WordVectors, match_nonzero, vector_of

_IMAGENET_1K_CLASSES = 1000
_CLASSES_OF_ONE_LOGIT = 2


@dataclass(frozen=True)
class ClassNames:
    """Names of the K outputs of a classifier.

    Attributes:
        names: of each class its synonyms, primary first; at least one.
        source: `library` (ImageNet's, by the number of outputs; a guess where the weights are the user's), `config`
            (of a folder of transformers), `file` or `settings`.
    """

    names: tuple[tuple[str, ...], ...]
    source: str


def load_class_names(settings: ModelSettings, num_classes: int) -> ClassNames | None:
    """The names that `model.class_names` asks for.

    Args:
        num_classes: K, classes of the target model (see storage.models.classifier_head.count_classes).

    Returns:
        None with `none`; and with `auto` where the architecture is the user's own callable, or its library, or folder,
        knows no class names for this number of outputs.

    Raises:
        UserError: a file that cannot be read, a class without a name, or another number of names than outputs.
    """
    chosen = settings.class_names
    if chosen == "none":
        return None
    if chosen == "auto":
        if settings.arch.startswith(TRANSFORMERS):
            lines = list_labels(settings.arch.removeprefix(TRANSFORMERS))
            return ClassNames(_split(lines), "config") if len(lines) == num_classes else None
        lines = _library_names(settings.arch, num_classes)
        return ClassNames(_split(lines), "library") if lines else None
    names = _split(_read_lines(chosen) if isinstance(chosen, Path) else chosen)
    empty = [number for number, synonyms in enumerate(names, start=1) if not synonyms]
    if empty:
        raise UserError(
            f"model.class_names: class {empty[0]} of {_label(chosen)} has no name; "
            "allowed: a name for each class, synonyms separated by commas; write N/A where there is none"
        )
    if len(names) != num_classes:
        one_logit = (
            "; of a network with one logit both, no and yes, or, with model.head: sigmoid, the one"
            if (len(names), num_classes) == (1, _CLASSES_OF_ONE_LOGIT)
            else ""
        )
        raise UserError(
            f"model.class_names: found {len(names)} classes in {_label(chosen)}; allowed: {num_classes}, one for each "
            "output of the target model, in their order; give them all, or set model.class_names to auto or none"
            f"{one_logit}"
        )
    return ClassNames(names, "file" if isinstance(chosen, Path) else "settings")


def embed_class_names(classes: ClassNames, vectors: WordVectors) -> tuple[FloatArray, tuple[str, ...]]:
    """A word vector for each class. The first of these that is found:

    `synonyms`: the mean of the vectors of those synonyms that are one token, as they stand or joined (`hot_dog`).
    `words`: the mean over the words of the primary, else of the next synonym all of whose words have a vector.
    `head`: the primary, else the next synonym, without its leading words, as few as need be; in English the head noun
    comes last, so that `Kerry blue terrier` is at least a terrier.

    A synonym that only abbreviates another one (`Afghan`, beside `Afghan hound`; `mouse`, beside `computer mouse`)
    comes last, as `abbreviation`, since alone it is mostly the name of something else; the primary is the first that
    does not.

    Returns:
        float32 [K, E], rows of length 1, or zero where nothing is found; and how each was found, else `missing`.
    """
    rows = np.zeros((len(classes.names), vectors.matrix.shape[1]), dtype=np.float32)
    how = ["missing"] * len(classes.names)
    for position, synonyms in enumerate(classes.names):
        for kind, row in _candidates(synonyms, vectors):
            length = float(np.linalg.norm(row))
            if length > 0:
                rows[position], how[position] = row / length, kind
                break
    return rows, tuple(how)


def _candidates(synonyms: Sequence[str], vectors: WordVectors) -> Iterator[tuple[str, FloatArray]]:
    short = [name for name in synonyms if any(_abbreviates(name, other) for other in synonyms)]
    full = [name for name in synonyms if name not in short]
    yield "synonyms", _mean_of_tokens(full, vectors)
    endings = [(start, " ".join(name.split()[start:])) for name in full for start in range(len(name.split()))]
    for start, ending in sorted(endings, key=lambda e: e[0] > 0):
        match = match_nonzero(vectors, ending)
        if match.how != "missing":
            yield "head" if start else "words", vector_of(vectors, match)
    yield "abbreviation", _mean_of_tokens(short, vectors)


def _mean_of_tokens(names: Sequence[str], vectors: WordVectors) -> FloatArray:
    matches = [match_nonzero(vectors, name) for name in names]
    rows = [vector_of(vectors, match) for match in matches if match.how in ("exact", "joined")]
    return np.mean(rows, axis=0) if rows else np.zeros(vectors.matrix.shape[1], dtype=np.float32)


def _abbreviates(name: str, other: str) -> bool:
    """Whether `other` has all words of `name`, in a row, and more."""
    return name.lower() != other.lower() and f" {name.lower()} " in f" {other.lower()} "


def _split(lines: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(name for part in line.split(",") if (name := " ".join(part.split()))) for line in lines)


def _label(chosen: Path | Sequence[str]) -> str:
    return str(chosen) if isinstance(chosen, Path) else "the list"


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(
            f"model.class_names: cannot read {path} ({err}); allowed: auto, none, a list of names, or a UTF-8 text "
            "file with a class per line"
        ) from None


def _library_names(arch: str, num_classes: int) -> list[str]:
    """ImageNet's, by the size of the head: torchvision's are all of ImageNet-1k, timm's of several subsets."""
    library, sep, _ = arch.partition(":")
    if sep and library not in ("timm", "torchvision"):
        return []
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None or (num_classes != _IMAGENET_1K_CLASSES and _is_torchvision(arch)):
        return []
    return list(ImageNetInfo(subset).label_descriptions())


def _is_torchvision(arch: str) -> bool:
    """A bare name is torchvision's, if it has such an architecture (as in storage.models.architectures)."""
    library, sep, _ = arch.partition(":")
    if sep:
        return library == "torchvision"
    import torchvision.models as models

    return arch in models.list_models(module=models)
