"""What a declaration of inputs says of itself: by type, by mark, and never silently less than what is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch

from lavise.configs.base import Settings
from lavise.storage.state.artefacts import Handle, compute_stage_digest
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import HOW, Given, Request, Spread, StageInputs, Stated, Unstated, take_part


class Section(Settings):
    rate: float = 0.5
    names: tuple[str, ...] = ("a", "b")
    limit: int | None = None


class Part(Settings):
    names: tuple[str, ...]
    most: int


def make_handle(digest: str) -> Handle:
    return Handle(
        stage="s", version=1, digest=digest, folder=Path("/nowhere"), settings={}, inputs={}, files={}, info={}
    )


@dataclass(frozen=True)
class Plain(StageInputs):
    maps: Handle
    words: Given[list[str]]
    section: Section
    computing: Computing
    layer: str
    at: tuple[int, ...]
    facts: Mapping[str, Any]
    reason: str | None = None
    maybe: Handle | None = None
    given: Given[int] | None = None


def make_plain(**changed: Any) -> Plain:
    values: dict[str, Any] = {
        "maps": make_handle("m"),
        "words": Given(["cat"], "w"),
        "section": Section(),
        "computing": Computing(7, "cuda"),
        "layer": "tail",
        "at": (1, 5),
        "facts": {"mean": [0.5, 0.25]},
    }
    return Plain(**{**values, **changed})


def test_fields_are_stated_by_their_type() -> None:
    assert make_plain().request() == Request(
        {
            "rate": 0.5,
            "names": ["a", "b"],
            "limit": None,
            "seed": 7,
            "device": "cuda",
            "torch": torch.__version__,
            "layer": "tail",
            "at": [1, 5],
            "facts": {"mean": [0.5, 0.25]},
            "reason": None,
        },
        {"maps": "m", "words": "w"},
    )


def test_what_may_be_missing_is_stated_where_it_is_there() -> None:
    found = make_plain(maybe=make_handle("n"), given=Given(3, "g")).request()
    assert found.inputs == {"maps": "m", "words": "w", "maybe": "n", "given": "g"}
    assert found.settings == make_plain().request().settings


def test_a_given_value_counts_by_its_digest_and_progress_not_at_all() -> None:
    assert make_plain(words=Given(["dog"], "w")).request() == make_plain().request()
    assert make_plain(words=Given(["cat"], "x")).request() != make_plain().request()
    shown = make_plain(computing=Computing(7, "cuda", lambda title, total: no_progress(title, total)))
    assert shown.request() == make_plain().request()


@dataclass(frozen=True)
class Marked(StageInputs):
    train: Annotated[Handle, Stated(under="train data")]
    words: Annotated[Sequence[str], Stated(by=lambda words: "+".join(words))]
    counts: Annotated[Sequence[int], Stated(under="total", by=sum)]
    network: Annotated[
        Sequence[str], Spread(lambda n: {"arch": n[0], "size": len(n)}, lambda n: {"checkpoint": f"sha of {n[0]}"})
    ]
    shuffled: Annotated[bool, Spread(lambda shuffled: {"shuffled": True} if shuffled else {})] = False
    concepts: Annotated[Sequence[str], Unstated("the words are of them")] = ()
    progress: Annotated[Progress, HOW] = no_progress


def test_marks_say_otherwise() -> None:
    inputs = Marked(make_handle("t"), ["a", "b"], [2, 3], ["net", "x"])
    assert inputs.request() == Request(
        {"words": "a+b", "total": 5, "arch": "net", "size": 2}, {"train data": "t", "checkpoint": "sha of net"}
    )
    shuffled = Marked(make_handle("t"), ["a", "b"], [2, 3], ["net", "x"], shuffled=True, concepts=["c"])
    assert shuffled.request().settings == {**inputs.request().settings, "shuffled": True}


def test_the_order_of_the_fields_is_none_of_the_digest() -> None:
    @dataclass(frozen=True)
    class Backwards(StageInputs):
        layer: str
        rate: float
        maps: Handle

    @dataclass(frozen=True)
    class Forwards(StageInputs):
        maps: Handle
        rate: float
        layer: str

    first = Backwards("tail", 0.5, make_handle("m")).request()
    second = Forwards(make_handle("m"), 0.5, "tail").request()
    assert list(first.settings) != list(second.settings)
    digests = {compute_stage_digest("s", 1, r.settings, r.inputs) for r in (first, second)}
    assert len(digests) == 1


@dataclass(frozen=True)
class Silent(StageInputs):
    progress: Progress = no_progress


@dataclass(frozen=True)
class Nested(StageInputs):
    pictures: Mapping[str, Path] = field(default_factory=lambda: {"a": Path("a.png")})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (Silent(), r"^Silent\.progress is a \w+, which does not say how it is stated; annotate it with Stated"),
        (Nested(), r"^Nested\.pictures is a dict, which does not say"),
    ],
)
def test_whatever_does_not_say_how_it_is_stated_is_refused(inputs: StageInputs, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        inputs.request()


@dataclass(frozen=True)
class Twice(StageInputs):
    section: Section
    rate: float


def test_nothing_is_stated_twice() -> None:
    with pytest.raises(ValueError, match=r"^Twice\.rate states rate once more$"):
        Twice(Section(), 0.5).request()


def test_a_part_of_a_section_has_no_more_than_its_fields() -> None:
    part = take_part(Section(names=("c",)), Part, most=3)
    assert part == Part(names=("c",), most=3)
    assert set(part.model_dump()) == {"names", "most"}
