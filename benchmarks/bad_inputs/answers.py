"""What lavise answers to an input: a line, a count, a value, or, which is a fault, anything else."""

from __future__ import annotations

import logging
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lavise.configs.errors import UserError
from lavise.configs.schema import ReferenceSettings, TargetSettings
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.csv_tables import shorten
from lavise.storage.datasets.formats import find_format, find_target_format
from lavise.storage.datasets.input_images import open_input
from lavise.storage.images.images import BrokenImageError
from lavise.storage.state.text import printable

WITNESS = "witness"
"""Made by whoever runs what an input holds."""
LIMIT_SECONDS = 20
MAX_LINE_CHARS = 1010
MAX_LINES = 6
REFUSED, COUNTED, READ = "one clear line", "left out and counted", "read"


class HangError(BaseException):
    """The answer took too long."""


@dataclass(frozen=True)
class Case:
    """An input.

    Attributes:
        group: of the table.
        what: the input, in words.
        read: makes it in an empty folder, has it read, and says what came of it (`Found`); raises as the product does.
        expected: what it has to come to; several where the platform decides.
    """

    group: str
    what: str
    read: Callable[[Path], Found]
    expected: tuple[str, ...] = (REFUSED,)


@dataclass
class Found:
    """What was read.

    Attributes:
        good: number of pictures, rows or the like that were read.
        left_out: reasons and numbers of what was not.
        notes: what else is said.
    """

    good: int
    left_out: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What happened.

    Attributes:
        kind: REFUSED, COUNTED, READ, or what went wrong.
        line: the message, the counts, or how much was read.
        fault: why it is not as it should be; empty where it is.
    """

    group: str
    what: str
    kind: str
    line: str
    fault: str
    seconds: float


def ask(case: Case, folder: Path) -> Answer:
    """Have an input read."""
    folder.mkdir(parents=True)
    begun = time.perf_counter()
    kind, line, fault = _ask(case, folder)
    if any(place.exists() for place in (folder / WITNESS, Path(WITNESS))):
        fault = "something in the input was run"
    line = line.replace(f"{folder}/", "").replace(str(folder), "FOLDER")
    if not fault and kind not in case.expected:
        fault = f"expected: {' or '.join(case.expected)}"
    return Answer(case.group, case.what, kind, line, fault, round(time.perf_counter() - begun, 3))


def _ask(case: Case, folder: Path) -> tuple[str, str, str]:
    try:
        with _limit(LIMIT_SECONDS), warnings.catch_warnings(), _silence():
            warnings.simplefilter("ignore")
            found = case.read(folder)
    except UserError as err:
        return REFUSED, str(err), _judge_line(str(err).replace(str(folder), ""))
    except HangError:
        return "no answer", f"after {LIMIT_SECONDS} s", "it hangs"
    except Exception as err:  # noqa: BLE001 - whatever else comes is what is looked for
        where = traceback.extract_tb(err.__traceback__)[-1]
        return "traceback", f"{type(err).__name__}: {err} ({Path(where.filename).name}:{where.lineno})", "traceback"
    said = [f"{number} x {reason}" for reason, number in found.left_out.items()]
    if said:
        line = f"{found.good} read; left out: {', '.join(said)}"
        return COUNTED, line, _judge_line(line.replace(str(folder), "")) or ("" if found.good else "nothing was kept")
    return READ, "; ".join([f"{found.good} read", *found.notes]), ""


def _judge_line(text: str) -> str:
    """Lines of a message are clear: some, short, fit for a terminal, and none is Python's own."""
    lines = text.split("\n")
    if not text.strip():
        return "an empty line"
    if any(not c.isprintable() for line in lines for c in line):
        return "control characters in the line"
    if len(lines) > MAX_LINES or any(len(line) > MAX_LINE_CHARS for line in lines):
        return f"{len(lines)} lines of up to {max(map(len, lines))} characters"
    return ""


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _silence() -> Iterator[None]:
    logger = logging.getLogger("lavise")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def read_reference(settings: dict[str, Any]) -> Found:
    """As an audit does: both parts, each picture decoded, each mask drawn on it."""
    try:
        known: Any = TypeAdapter(ReferenceSettings).validate_python(settings)
    except ValidationError as err:  # of a config it is the same in lavise's words
        raise UserError("; ".join(e["msg"] for e in err.errors())) from None
    both = find_format(known.kind).read(known, 0)
    return _join(look_through(both.train), look_through(both.evaluation))


def read_target(settings: dict[str, Any]) -> Found:
    """As an audit does: each picture decoded."""
    known: Any = TypeAdapter(TargetSettings).validate_python(settings)
    return look_through(find_target_format(known.kind).read(known))


def look_through(dataset: Dataset) -> Found:
    """Decode all pictures and draw all masks."""
    left_out = Counter(dict(dataset.list_left_out()))
    good = 0
    for record in dataset.records:
        try:
            picture = open_input(record.path, 3, record.value_range)
        except BrokenImageError as err:
            left_out[f"{printable(shorten(record.key))}: {err}"] += 1
            continue
        for annotation in record.annotations:
            annotation.make_mask(*picture.shape)
        good += 1
    dataset.compute_digest("0" * 64)
    return Found(good, left_out, dataset.notes)


def _join(one: Found, other: Found) -> Found:
    return Found(one.good + other.good, one.left_out + other.left_out, (*one.notes, *other.notes))
