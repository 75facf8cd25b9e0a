"""Bad tables of groups, predicates, policies, YAML and single settings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from benchmarks.bad_inputs.answers import READ, REFUSED, Case, Found
from benchmarks.bad_inputs.good_sets import write_picture
from lavise.configs.errors import UserError
from lavise.configs.groups import Groups
from lavise.configs.loading import dump_config, load_config
from lavise.configs.policy import load_policy
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.datasets.groups import make_grouping

_ANY, _ONLY_READ = (REFUSED, READ), (READ,)
_LONG = "9" * 5000
_GOOD_POLICY = "name: mine\nrules:\n  - {metric: share_explained, at_least: 0.4}\n"


def list_cases() -> Iterator[Case]:
    """All of them."""
    for what, content, expected in _CSV:
        yield Case("groups in CSV files", what, partial(_group_by_csv, content), expected)
    for what, groups, expected in _GROUPS:
        yield Case("groups and predicates", what, partial(_group, groups), expected)
    for what, policy, expected in _POLICIES:
        yield Case("policies", what, partial(_read_policy, policy), expected)
    for what, text, expected in _YAML:
        yield Case("YAML", what, partial(_read_config, text), expected)
    for setting, expected in _SETTINGS:
        yield Case("--set", setting[:60], partial(_override, setting), expected)


def _make_dataset(folder: Path) -> Dataset:
    pairs = {"a/0.png": ("dog",), "a/1.png": ("dog", "cup"), "b/2.png": ("hot dog",), "b/3.png": ()}
    records = tuple(
        ImageRecord(key, write_picture(folder / key), tuple(Annotation(c) for c in concepts))
        for key, concepts in pairs.items()
    )
    return Dataset("pictures", records, ("dog", "cup", "hot dog"))


def _group(short: str, folder: Path) -> Found:
    dataset = _make_dataset(folder)
    try:
        settings: Any = TypeAdapter(Groups).validate_python(short.replace("FOLDER", str(folder)))
    except ValidationError as err:
        raise UserError("; ".join(e["msg"] for e in err.errors())) from None
    grouping = make_grouping(settings, "bias.groups", dataset, [r.key for r in dataset.records])
    return Found(sum(grouping.num_images))


def _group_by_csv(content: bytes, folder: Path) -> Found:
    (folder / "people.csv").write_bytes(content)
    return _group("csv:FOLDER/people.csv:gender", folder)


def _read_policy(content: str | bytes, folder: Path) -> Found:
    (folder / "rules.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    return Found(len(load_policy(folder / "rules.yaml").rules))


def _read_config(content: str | bytes, folder: Path) -> Found:
    (folder / "my.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    dump_config(load_config(folder / "my.yaml"))
    return Found(1)


def _override(setting: str, folder: Path) -> Found:
    dump_config(load_config("demo", [setting]))
    return Found(1)


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


_CSV: tuple[tuple[str, bytes, tuple[str, ...]], ...] = (
    ("no byte", b"", (REFUSED,)),
    ("a header alone", _lines("image,gender"), (REFUSED,)),
    ("another column", _lines("image,sex", "a/0.png,f"), (REFUSED,)),
    ("a column twice", _lines("image,gender,gender", "a/0.png,f,m"), (REFUSED,)),
    ("one group", _lines("image,gender", "a/0.png,f", "a/1.png,f"), (REFUSED,)),
    ("no picture of the data set", _lines("image,gender", "x.png,f", "y.png,m"), (REFUSED,)),
    ("a picture with two values", _lines("image,gender", "a/0.png,f", "a/0.png,m"), (REFUSED,)),
    ("two paths that are one picture", _lines("image,gender", "/x/a/0.png,f", "/y/a/0.png,f"), (REFUSED,)),
    ("more cells than the header", _lines("image,gender", "a/0.png,f,1"), (REFUSED,)),
    ("empty values alone", _lines("image,gender", "a/0.png,", "a/1.png,"), (REFUSED,)),
    ("UTF-16", "image,gender\na/0.png,f\n".encode("utf-16"), (REFUSED,)),
    ("Latin-1", "image,gender\na/0.png,né\n".encode("latin-1"), (REFUSED,)),
    ("a quote that is not closed", _lines("image,gender", 'a/0.png,"f'), (REFUSED,)),
    ("a cell of 200,000 characters", _lines("image,gender", f"a/0.png,{_LONG * 40}"), (REFUSED,)),
    ("a zero byte", b"image,gender\na/0.png,f\0\na/1.png,m\n", _ANY),
    ("values of control characters", _lines("image,gender", "a/0.png,\x1b[31m", "a/1.png,m"), _ANY),
    (
        "values of 300 characters that differ at the end",
        _lines("image,gender", f"a/0.png,{'x' * 300}1", f"a/1.png,{'x' * 300}2"),
        _ONLY_READ,
    ),
    ("values of HTML", _lines("image,gender", "a/0.png,<b>f</b>", "a/1.png,m"), _ONLY_READ),
    ("semicolons", _lines("image;gender", "a/0.png;f"), (REFUSED,)),
    ("a header of control characters", _lines("image,\x1b[31m", "a/0.png,f"), (REFUSED,)),
)
_GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("a kind that is none", "gender", (REFUSED,)),
    ("a CSV file without a column", "csv:people.csv:", (REFUSED,)),
    ("a CSV file that is not there", "csv:FOLDER/none.csv:gender", (REFUSED,)),
    ("a folder in the place of a CSV file", "csv:FOLDER:gender", (REFUSED,)),
    ("a level of 0", "folder:0", (REFUSED,)),
    ("a level of text", "folder:deep", (REFUSED,)),
    ("a level that no picture has", "folder:9", (REFUSED,)),
    ("a level of 5,000 digits", f"folder:{_LONG}", (REFUSED,)),
    *(
        (f"the predicate {predicate[:40]!r}", f"annotations:{predicate}", expected)
        for predicate, expected in (
            ("dog", _ONLY_READ),
            ("Dog AND cup", _ANY),
            ("dog and", (REFUSED,)),
            ("and dog", (REFUSED,)),
            ("(dog", (REFUSED,)),
            ("dog)", (REFUSED,)),
            ("()", (REFUSED,)),
            ('"dog', (REFUSED,)),
            ("dgo", (REFUSED,)),
            ("dog cup", (REFUSED,)),
            ("dog >= many", (REFUSED,)),
            ("dog >= -1", (REFUSED,)),
            ("dog >= 1.5", (REFUSED,)),
            ("dog => 1", (REFUSED,)),
            (f"dog >= {'9' * 1500}", _ANY),
            ("not " * 400 + "dog", (REFUSED,)),
            ("(" * 500 + "dog" + ")" * 500, _ANY),
            ("dog or " * 280 + "dog", _ANY),
            ("dog" * 700, (REFUSED,)),
            ("dog; import os", (REFUSED,)),
            ("__import__('os')", (REFUSED,)),
            ("dog\0", (REFUSED,)),
            ("\x1b[31m", (REFUSED,)),
            ("дог", (REFUSED,)),
            ("hot_dog", _ONLY_READ),
        )
    ),
)
_BOMB = "\n".join(
    ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 8))]
)
_BAD_YAML: tuple[tuple[str, str | bytes], ...] = (
    ("no byte", b""),
    ("a number", "7"),
    ("a list", "- a\n- b\n"),
    ("brackets that are not closed", "name: [a"),
    ("tabs in the place of spaces", "name:\n\tmine"),
    ("a key twice", "name: a\nname: b\n"),
    ("a key that is a list", "? [a]\n: b\n"),
    ("a tag of Python", "name: !!python/object/apply:os.getcwd []"),
    ("a tag of nobody", "name: !other x"),
    ("a date of month 13", "name: 2020-13-45"),
    ("a whole number that is none", "name: !!int many"),
    ("a time that is none", "name: !!timestamp now"),
    ("yes and no that are neither", "name: !!bool perhaps"),
    ("a number of 5,000 digits", f"name: {_LONG}"),
    ("an alias of nothing", "name: *nothing"),
    ("an alias of itself", "name: &a [*a]"),
    ("aliases of aliases", _BOMB),
    ("50,000 brackets", "[" * 50_000),
    ("a zero byte", b"name: a\0b"),
    ("control characters", b"name: \x1b[31m"),
    ("UTF-16", "name: mine".encode("utf-16")),
    ("Latin-1", "name: né".encode("latin-1")),
    ("a key that there is not", "surprise: 1"),
    ("a key that is a number", "1: 2"),
    ("two documents", "name: a\n---\nname: b\n"),
)
_YAML: tuple[tuple[str, str | bytes, tuple[str, ...]], ...] = (
    *((what, text, (REFUSED,)) for what, text in _BAD_YAML),
    ("sections that are lists", "name: a\nmodel: []\nreference: []\n", (REFUSED,)),
    ("a section null", "name: a\nmodel:\n", (REFUSED,)),
    ("a reference without a kind", "name: a\nmodel: {arch: resnet18}\nreference: {root: x}\n", (REFUSED,)),
    (
        "a reference of a kind that is none",
        "name: a\nmodel: {arch: resnet18}\nreference: {kind: x, root: x}\n",
        (REFUSED,),
    ),
)
_POLICIES: tuple[tuple[str, str | bytes, tuple[str, ...]], ...] = (
    ("whole", _GOOD_POLICY, _ONLY_READ),
    *((what, text, (REFUSED,)) for what, text in _BAD_YAML),
    ("no rules", "name: mine\n", (REFUSED,)),
    ("rules empty", "name: mine\nrules: []\n", (REFUSED,)),
    ("rules a mapping", "name: mine\nrules: {a: b}\n", (REFUSED,)),
    ("a rule that is a number", "name: mine\nrules: [7]\n", (REFUSED,)),
    ("a rule of both kinds", "name: mine\nrules: [{metric: a, at_least: 1, forbidden_words: b}]\n", (REFUSED,)),
    ("a rule without a bound", "name: mine\nrules: [{metric: a}]\n", (REFUSED,)),
    ("a bound NaN", "name: mine\nrules: [{metric: a, at_least: .nan}]\n", (REFUSED,)),
    ("a bound infinite", "name: mine\nrules: [{metric: a, at_least: .inf}]\n", (REFUSED,)),
    ("a bound of yes", "name: mine\nrules: [{metric: a, at_least: yes}]\n", (REFUSED,)),
    ("bounds that cross", "name: mine\nrules: [{metric: a, at_least: 2, at_most: 1}]\n", (REFUSED,)),
    ("no forbidden word", "name: mine\nrules: [{forbidden_words: []}]\n", (REFUSED,)),
    ("a forbidden word that is empty", "name: mine\nrules: [{forbidden_words: ['  ']}]\n", (REFUSED,)),
    ("a status that is none", "name: mine\nrules: [{forbidden_words: a, status: lost}]\n", (REFUSED,)),
    (
        "two rules of one name",
        "name: mine\nrules: [{name: a, metric: b, at_least: 1}, {name: a, metric: c, at_least: 1}]\n",
        (REFUSED,),
    ),
    ("a name that leads out", "name: ../mine\nrules: [{metric: a, at_least: 1}]\n", (REFUSED,)),
    ("a name with a line end", 'name: mine\nrules: [{name: "a\\nb", metric: a, at_least: 1}]\n', (REFUSED,)),
)
_SETTINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("name", (REFUSED,)),
    ("=1", (REFUSED,)),
    ("..=1", (REFUSED,)),
    ("model.nothing=1", (REFUSED,)),
    ("train.max_epochs=0", (REFUSED,)),
    ("train.max_epochs=1e9", _ANY),
    ("train.max_epochs=-1", (REFUSED,)),
    ("train.max_epochs=many", (REFUSED,)),
    ("train.max_epochs=.nan", (REFUSED,)),
    ("train.max_epochs=2020-13-45", (REFUSED,)),
    (f"train.max_epochs={_LONG}", (REFUSED,)),
    ("train.max_epochs=[", (REFUSED,)),
    ("train.max_epochs=!!python/name:os.getcwd", (REFUSED,)),
    ("train.max_epochs=&a [*a]", (REFUSED,)),
    ("reference={kind: coco}", (REFUSED,)),
    ("reference.sources.0.root=x", (REFUSED,)),
    ("reference.value_range=[0, .inf]", (REFUSED,)),
    ("model.layers=[]", _ANY),
    ("words.language=../../x", (REFUSED,)),
    ("name=\x1b[31m", (REFUSED,)),
)
