"""Several labelled data sets as one reference.

Each source is read by the format of its kind. What is not looked for in a source is not absent from its pictures: they
carry no label of what only another source annotates, and of such categories nothing is known there
(`ImageRecord.looked_for`).
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

from lavise.configs.errors import UserError
from lavise.configs.schema import CombinedReference, SourceSettings
from lavise.storage.datasets.base import Dataset, ImageRecord, Reference
from lavise.storage.datasets.formats import Format, find_format, register_format
from lavise.storage.images.inner_files import PictureFile
from lavise.storage.packed_list import PackedList
from lavise.storage.state.digest import digest_file
from lavise.storage.state.text import printable
from lavise.storage.words.lemmas import lemmatise
from lavise.storage.words.wordnet import load_wordnet

LEAKED = "picture that is in the evaluation part of another source"
_SEPARATORS = re.compile(r"[\s_\-]+")
_END_BYTES = 1 << 12
_SHOWN = 20


@dataclass(frozen=True)
class Source:
    """A data set that was read.

    Attributes:
        name: opens its records' keys, for example `0-coco`; it does not hang on where the data lie.
    """

    name: str
    train: Dataset
    evaluation: Dataset

    def list_concepts(self) -> list[str]:
        """Of both parts."""
        return list(dict.fromkeys([*self.train.concepts, *self.evaluation.concepts]))


def load_combined_reference(settings: CombinedReference, seed: int) -> Reference:
    """All sources as one: train with train, evaluation with evaluation, categories merged.

    Pictures of the sources alternate, in proportion to their numbers, so that the first so many are of all of them.

    Raises:
        UserError: whatever is missing or wrong in a source, under the setting of that source; or no picture to train on
            is left.
    """
    sources = [_read_source(number, source, seed) for number, source in enumerate(settings.sources)]
    names = merge_categories([source.list_concepts() for source in sources], settings.merge_by)
    shared = find_shared_pictures(sources)
    train = [
        replace(s.train, records=PackedList(r for i, r in enumerate(s.train.records) if i not in leaked))
        for s, leaked in zip(sources, shared.leaked, strict=True)
    ]
    if not any(part.records for part in train):
        raise UserError(
            "reference.sources: all pictures to train on are in the evaluation part of another source; allowed: "
            "sources with pictures of their own"
        )
    merged = tuple(describe_merged([s.name for s in sources], names))
    evaluation = [s.evaluation for s in sources]
    joined = [
        _join([s.name for s in sources], parts, names, merged if n == 0 else (), shared.num_twice[n])
        for n, parts in enumerate((train, evaluation))
    ]
    left_out = {f"{s.name}: {LEAKED}": len(own) for s, own in zip(sources, shared.leaked, strict=True) if own}
    return Reference(replace(joined[0], left_out={**joined[0].left_out, **left_out}), joined[1])


# ---------------------------------------------------------------- sources


def _read_source(number: int, settings: SourceSettings, seed: int) -> Source:
    field = f"reference.sources.{number}"
    fields = "|".join(type(settings).model_fields)
    # Only where a setting is meant: `reference` may also be a folder's name.
    setting = re.compile(rf"(?<![\w./\\-])reference(?=\.(?:{fields})\b|: )")
    try:
        found = find_format(settings.kind).read(settings, seed)
    except UserError as err:
        lines = [setting.sub(field, line) for line in str(err).splitlines()]
        raise UserError("\n".join(x if x.startswith(field) else f"{field}: {x}" for x in lines)) from None
    name = f"{number}-{settings.kind}"
    parts = [
        replace(
            part,
            notes=tuple(f"{name}: {setting.sub(field, note)}" for note in part.notes),
            skipped={f"{name}: {reason}": count for reason, count in part.skipped.items()},
            left_out={f"{name}: {reason}": count for reason, count in part.left_out.items()},
            noted=frozenset(f"{name}: {reason}" for reason in part.noted),
        )
        for part in (found.train, found.evaluation)
    ]
    return Source(name, *parts)


def _join(
    sources: Sequence[str],
    parts: Sequence[Dataset],
    names: Sequence[Mapping[str, str]],
    merged: Sequence[str],
    twice: int,
) -> Dataset:
    """The same part of all sources as one data set.

    Args:
        sources: their names.
        names: of each source's categories in the joint data set.
        merged: notes on the categories, which are said once.
        twice: pictures that are in this part of several sources.
    """
    concepts = tuple(dict.fromkeys(own[c] for part, own in zip(parts, names, strict=True) for c in part.concepts))
    joint = [
        list(_rename(source, part, own, frozenset(concepts)))
        for source, part, own in zip(sources, parts, names, strict=True)
    ]
    order = sorted(
        ((i + 0.5) / len(records), number, i) for number, records in enumerate(joint) for i in range(len(records))
    )
    notes = [_count(source, part) for source, part in zip(sources, parts, strict=True)]
    notes += merged
    if twice:
        notes.append(f"{twice:,} pictures are in this part of several sources, and stand once for each")
    notes += [note for part in parts for note in part.notes]
    return Dataset(
        " + ".join(part.name for part in parts),
        tuple(joint[number][i] for _, number, i in order),
        concepts,
        {reason: n for part in parts for reason, n in part.skipped.items()},
        {reason: n for part in parts for reason, n in part.left_out.items()},
        tuple(notes),
        frozenset(reason for part in parts for reason in part.noted),
    )


def _rename(source: str, part: Dataset, names: Mapping[str, str], concepts: frozenset[str]) -> Iterator[ImageRecord]:
    @cache
    def translate(asked: frozenset[str]) -> frozenset[str] | None:
        found = frozenset(names[c] for c in asked if c in names)
        return None if found >= concepts else found

    everything = frozenset(part.concepts)
    for record in part.records:
        yield replace(
            record,
            key=f"{source}/{record.key}",
            annotations=tuple(replace(a, concept=names[a.concept]) for a in record.annotations),
            looked_for=translate(everything if record.looked_for is None else record.looked_for),
        )


def _count(source: str, part: Dataset) -> str:
    labels = sum(len(record.annotations) for record in part.records)
    return (
        f"{source} is {printable(part.name)}: {len(part.records):,} pictures, {labels:,} labels, "
        f"{len(part.concepts):,} categories"
    )


# ---------------------------------------------------------------- categories


def merge_categories(names_of: Sequence[Sequence[str]], merge_by: str) -> list[dict[str, str]]:
    """Name of each source's categories in the joint data set: that of the first source which has it.

    Two categories of one source stay two, since it tells them apart. So the closest go together first: those that are
    spelled as in the joint data set, or in another source, then by name, then by lemma or sense.

    Args:
        names_of: of each source, its categories.
        merge_by: name, lemma or synset.
    """
    rules: list[Callable[[str], Hashable]] = [str, str, _simplify]  # first by the name in the joint data set alone
    if merge_by != "name":
        rules.append(lemmatise if merge_by == "lemma" else _find_sense)
    groups: list[list[str]] = []
    found: list[dict[str, str]] = []
    for names in names_of:
        place: dict[str, int] = {}
        taken: set[int] = set()
        for step, rule in enumerate(rules):
            by_key: dict[Hashable, list[int]] = defaultdict(list)
            for number, members in enumerate(groups):
                for key in dict.fromkeys(map(rule, members if step else members[:1])):
                    by_key[key].append(number)
            for name in names:
                free = next((number for number in by_key[rule(name)] if number not in taken), None)
                if name not in place and free is not None:
                    place[name] = free
                    taken.add(free)
        for name in names:
            if name in place:
                groups[place[name]].append(name)
            else:
                place[name] = len(groups)
                groups.append([name])
        found.append({name: groups[place[name]][0] for name in names})
    return found


def describe_merged(sources: Sequence[str], names_of: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """What became of the categories: how many are of several sources, and which of them are spelled otherwise."""
    holders = Counter(name for names in names_of for name in names.values())
    several = sum(count > 1 for count in holders.values())
    yield f"{several:,} of {len(holders):,} categories are of several sources"
    if len(holders) > several:
        yield "a category is judged on pictures of the sources that have it; on others it was not looked for"
    others = [
        f"{printable(name)!r} is {printable(own)!r} of {source}"
        for source, names in zip(sources, names_of, strict=True)
        for own, name in names.items()
        if own != name
    ]
    if others:
        rest = f" and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else ""
        yield f"merged: {', '.join(others[:_SHOWN])}{rest}"


def _simplify(name: str) -> str:
    return _SEPARATORS.sub(" ", name.casefold()).strip()


def _find_sense(name: str) -> Hashable:
    """Number of the commonest noun sense; the lemma where WordNet has none."""
    wordnet, lemma = load_wordnet(), lemmatise(name)
    senses = wordnet.noun_synsets(_simplify(name)) or wordnet.noun_synsets(lemma)
    return senses[0] if senses else lemma


# ---------------------------------------------------------------- pictures of several sources


@dataclass(frozen=True)
class SharedPictures:
    """Pictures that several sources have.

    Attributes:
        leaked: of each source, positions in its training part of pictures that another one evaluates on.
        num_twice: pictures that are in the training part, and in the evaluation part, of more than one source.
    """

    leaked: tuple[frozenset[int], ...]
    num_twice: tuple[int, int]


@dataclass(frozen=True)
class _Place:
    source: int
    is_train: bool
    position: int
    path: PictureFile


def find_shared_pictures(sources: Sequence[Source]) -> SharedPictures:
    """The same file, or files of the same bytes, in more than one source.

    Files are told apart by size, then by their last 4096 bytes, and read through only where both agree. A picture that
    was scaled or saved anew is another one.
    """
    places = [
        _Place(number, part is source.train, position, record.path)
        for number, source in enumerate(sources)
        for part in (source.train, source.evaluation)
        for position, record in enumerate(part.records)
    ]
    alike = [places]
    for read in (_read_size, _read_end, _digest):
        alike = [group for some in alike for group in _split(some, read)]
    same = [*_split(places, _resolve), *alike]
    leaked: list[set[int]] = [set() for _ in sources]
    twice: list[set[PictureFile]] = [set(), set()]
    for group in same:
        for place in group:
            if place.is_train and any(not p.is_train and p.source != place.source for p in group):
                leaked[place.source].add(place.position)
    for group in same:
        for number, is_train in enumerate((True, False)):
            own = [p for p in group if p.is_train == is_train and not (is_train and p.position in leaked[p.source])]
            if len({p.source for p in own}) > 1:
                twice[number].add(own[0].path)
    return SharedPictures(tuple(map(frozenset, leaked)), (len(twice[0]), len(twice[1])))


def _split(places: Sequence[_Place], read: Callable[[PictureFile], Hashable]) -> list[list[_Place]]:
    """Groups of places where `read` says the same, of several sources; without files that cannot be read."""
    groups: dict[Hashable, list[_Place]] = defaultdict(list)
    for place in places:
        try:
            groups[read(place.path)].append(place)
        except (OSError, RuntimeError):  # not there, or a link that leads to itself: counted when it is decoded
            continue
    return [group for group in groups.values() if len({p.source for p in group}) > 1]


def _resolve(file: PictureFile) -> Hashable:
    return file.resolve() if isinstance(file, Path) else file


def _read_size(file: PictureFile) -> int:
    return file.stat().st_size if isinstance(file, Path) else len(file.read_bytes())


def _read_end(file: PictureFile) -> bytes:
    if not isinstance(file, Path):
        return file.read_bytes()[-_END_BYTES:]
    with file.open("rb") as opened:
        opened.seek(-min(_END_BYTES, file.stat().st_size), os.SEEK_END)
        return opened.read()


def _digest(file: PictureFile) -> str:
    return digest_file(file) if isinstance(file, Path) else sha256(file.read_bytes()).hexdigest()


register_format("combined", Format(load_combined_reference))
