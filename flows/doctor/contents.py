"""Checks of what the data of an audit hold: pictures, labels, categories, what is left out; and samples to look at.

Files are listed and labels are read as the audit does it. Of the pictures, some headers are looked at, and ten of each
data set are decoded.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from lavise.configs.drawn_pictures import Drawn
from lavise.configs.errors import UserError
from lavise.configs.schema import Config
from lavise.flows.doctor.check import Check, ok
from lavise.flows.doctor.inputs import find_data_faults, is_quickly_read
from lavise.storage.datasets.formats import find_format, find_target_format
from lavise.storage.state.environment import find_state_root
from lavise.storage.state.files import make_private_folder
from lavise.storage.state.text import printable

if TYPE_CHECKING:
    from lavise.storage.datasets.base import Dataset, ImageRecord

SAMPLES_FOLDER = "doctor"
_READ_SECONDS = 20.0
_HEADER_SECONDS = 4.0
_NUM_HEADERS = 200
_NUM_SAMPLES = 10
_NUM_CATEGORIES = 3
_NUM_LOST = 8
_T = TypeVar("_T")


def check_contents(config: Config) -> Iterator[Check]:
    """What the reference and the target hold, and a sheet of samples; scenes that the run draws are not looked at."""
    samples: dict[str, list[ImageRecord]] = {}
    for role, settings in (("reference", config.reference), ("target", config.target)):
        if isinstance(settings, Drawn) or find_data_faults(role, settings):
            continue  # nothing to read, or said already
        try:
            parts = read_within(_READ_SECONDS, lambda role=role: _read(role, config))  # type: ignore[misc]
        except UserError as err:
            what, _, advice = str(err).partition("; ")
            yield Check(f"{role} contents", "failed", what, advice or "set it right in the settings")
            continue
        if parts is None:
            found = f"not read through within {_READ_SECONDS:g} s"
            yield Check(f"{role} contents", "warning", found, "nothing; a run takes the time that it needs")
            continue
        for name, part in parts.items():
            yield ok(name, describe_part(part))
        yield from _tell_left_out(role, parts)
        if role == "reference":
            yield from check_categories(config, *parts.values())
        records = [record for part in parts.values() for record in part.records]
        yield from check_headers(role, records)
        samples[role] = choose_samples(next(iter(parts.values())).records)
    if any(samples.values()):
        yield from _draw_samples(config, samples)


def _read(role: str, config: Config) -> dict[str, Dataset]:
    if role == "target":
        return {"target contents": find_target_format(config.target.kind).read(config.target)}
    both = find_format(config.reference.kind).read(config.reference, config.seed)
    return {"reference, to train on": both.train, "reference, to evaluate on": both.evaluation}


def read_within(seconds: float, read: Callable[[], _T]) -> _T | None:
    """What `read` gives, or raises; None where it takes longer, which it may then do by itself."""
    answers: queue.Queue[tuple[_T | None, BaseException | None]] = queue.Queue()

    def work() -> None:
        try:
            answers.put((read(), None))
        except BaseException as err:  # noqa: BLE001 - raised again below, in the check's own thread
            answers.put((None, err))

    threading.Thread(target=work, daemon=True).start()
    try:
        found, error = answers.get(timeout=seconds)
    except queue.Empty:
        return None
    if error is not None:
        raise error
    return found


def describe_part(part: Dataset) -> str:
    """Pictures, labels, and the categories with the most and the fewest pictures."""
    text = f"{part.name}: {len(part.records):,} pictures"
    if not part.concepts:
        return text
    counts = part.count_images_with()
    ranked = sorted(part.concepts, key=lambda concept: (-counts[concept], concept))
    labels = sum(len(record.annotations) for record in part.records)
    text += f", {labels:,} labels, {len(part.concepts):,} categories"
    if bare := sum(not record.annotations for record in part.records):
        text += f", {bare:,} pictures without a label"
    if len(ranked) > 2 * _NUM_CATEGORIES:
        most, fewest = ranked[:_NUM_CATEGORIES], ranked[-_NUM_CATEGORIES:]
        return f"{text}; on the most pictures: {_list(most, counts)}; on the fewest: {_list(fewest, counts)}"
    return f"{text}: {_list(ranked, counts)}"


def _list(concepts: Sequence[str], counts: Counter[str]) -> str:
    return ", ".join(f"{concept} ({counts[concept]:,})" for concept in concepts)


def _tell_left_out(role: str, parts: dict[str, Dataset]) -> Iterator[Check]:
    lines: list[str] = []
    for part in parts.values():
        lines += part.notes
        lines += [f"left out {number:,} x {reason}" for reason, number in part.list_left_out()]
    for line in dict.fromkeys(lines):
        what, _, advice = line.partition("; set ")
        yield Check(f"{role} notes", "warning", what, f"set {advice}") if advice else ok(f"{role} notes", what)


def check_categories(config: Config, train: Dataset, evaluation: Dataset) -> Iterator[Check]:
    """Whether the reference's categories have word vectors, and are enough to judge an explainer by.

    Args:
        train, evaluation: both parts of the reference.
    """
    from lavise.storage.words.word_vectors import load_word_vectors, match_category
    from lavise.tasks.explainer.validation import MIN_CATEGORIES

    try:
        vectors = load_word_vectors(config.words) if train.concepts and is_quickly_read(config.words) else None
    except UserError:
        vectors = None  # the check of the word vectors says why
    if vectors is not None:
        language = config.words.language
        lost = [name for name in train.concepts if match_category(vectors, name, language).how == "missing"]
        shown = ", ".join(map(printable, lost[:_NUM_LOST])) + (", ..." if len(lost) > _NUM_LOST else "")
        if lost:
            yield Check(
                "words of categories",
                "failed" if len(lost) == len(train.concepts) else "warning",
                f"{len(lost)} of {len(train.concepts)} categories have no word vector: {shown}",
                "no region of theirs is learned from; call them otherwise, or set words.vectors to vectors of the same "
                "language, with lower-case words",
            )
        else:
            yield ok("words of categories", f"all {len(train.concepts):,} categories have word vectors")
    counts = evaluation.count_images_with()
    if (num := sum(counts[name] > 0 for name in evaluation.concepts)) < MIN_CATEGORIES:
        yield Check(
            "categories",
            "warning",
            f"{num} categories; the test over categories, whether an explainer can be believed, takes {MIN_CATEGORIES}",
            "more categories, if there are; without, the test over pictures alone decides (docs/method.md)",
        )


def check_headers(role: str, records: Sequence[ImageRecord]) -> Iterator[Check]:
    """Headers of some pictures, at even distances: what cannot be read, has several frames, or values without a range.

    Args:
        role: `reference` or `target`.
    """
    from lavise.storage.images.images import BrokenImageError, read_header

    end = time.monotonic() + _HEADER_SECONDS
    broken, framed, unranged = Counter[str](), 0, list[str]()
    num_looked_at = 0
    for record in _spread(records, _NUM_HEADERS):
        if time.monotonic() > end:
            break
        num_looked_at += 1
        try:
            header = read_header(record.path)
        except BrokenImageError as err:
            broken[f"{record.key}: {err}"] += 1
            continue
        framed += header.num_frames > 1
        if not header.has_range and record.value_range is None:
            unranged.append(record.key)
    name, of = f"{role} pictures", f"of {num_looked_at} headers"
    if unranged:
        found = (
            f"{len(unranged)} {of}: grey with a sign or 32 bits, whose format does not say what is white; for example "
        )
        advice = f"set {role}.value_range to the values that are black and white, for example [0, 4095]"
        yield Check(name, "failed", found + unranged[0], advice)
    if broken:
        found = f"{len(broken)} {of} cannot be read, for example {next(iter(broken))}"
        yield Check(name, "warning", found, "mend or remove them; a run leaves them out and counts them")
    if framed:
        yield ok(name, f"{framed} {of} have several frames or pages: the first is read")
    if not (unranged or broken or framed):
        yield ok(name, f"{num_looked_at} headers can be read")


def choose_samples(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Ten at even distances, of those with labels where there are any."""
    return _spread([record for record in records if record.annotations] or records, _NUM_SAMPLES)


def _spread(records: Sequence[ImageRecord], number: int) -> list[ImageRecord]:
    step = max(len(records) / number, 1.0)
    return [records[int(i * step)] for i in range(min(number, len(records)))]


def _draw_samples(config: Config, samples: dict[str, list[ImageRecord]]) -> Iterator[Check]:
    from lavise.flows.doctor.samples import draw_sheet

    folder = make_private_folder(find_state_root(config.storage.root) / SAMPLES_FOLDER)
    path = folder / f"{config.name}.png"
    flat = draw_sheet(samples, path)
    for role, keys in flat.items():
        found = f"{len(keys)} of {len(samples[role])} samples use under 5 % of the range from black to white: {keys[0]}"
        advice = f"where they are grey with more than 8 bits: set {role}.value_range, for example [0, 4095]"
        yield Check(f"{role} samples", "warning", found, advice)
    number = sum(map(len, samples.values()))
    yield ok("samples", f"{number} pictures with their masks, to look at: {path}")
