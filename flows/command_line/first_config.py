"""`lavise init`: a first config from what lies in a folder; what cannot be found is asked for on a terminal."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import typer
import yaml

from lavise.configs.errors import CheckpointError, UserError
from lavise.configs.loading import validate_config
from lavise.configs.schema import Config
from lavise.flows.shared.console import escape, make_console
from lavise.storage.datasets.base import Reference
from lavise.storage.datasets.formats import find_format
from lavise.storage.datasets.readers.image_folder import list_class_folders
from lavise.storage.datasets.recognised_layouts import guess_layouts
from lavise.storage.images.picture_files import has_picture
from lavise.storage.models.architectures import find_architecture
from lavise.storage.models.checkpoint_files import INDEX_SUFFIX
from lavise.storage.models.distributed_checkpoints import is_distributed_folder
from lavise.storage.models.recognised_networks import RecognisedNetwork, recognise_network
from lavise.storage.models.weight_files import (
    WEIGHT_SUFFIXES,
    is_companion_name,
    is_shard_name,
    is_weights_name,
    read_weights,
)
from lavise.storage.state.files import write_atomically
from lavise.storage.state.text import printable

log = logging.getLogger("lavise")
_DRAWN = ("openmoji", "patterns")
_PICTURE_FOLDERS = ("pictures", "images", "photos", "target", "imgs", "data")
_LABEL_FOLDERS = ("labelled", "labeled", "labels", "reference", "train", "training", "annotated")
_LAYERS_HINT = "layers: [NAME]  # default: the last map; `lavise layers` on this file lists them"
_NUM_SHOWN = 5
_MAX_FOLDERS = 50


@dataclass(frozen=True)
class Named:
    """What the user has named; None is looked for.

    Attributes:
        folder: where it is looked for.
        labels: a folder, or a kind of data set that is drawn.
    """

    folder: Path
    weights: str | None = None
    arch: str | None = None
    labels: str | None = None
    pictures: Path | None = None
    name: str | None = None


@dataclass(frozen=True)
class _Part:
    """A section of the config, with what is said about it.

    Attributes:
        folders: of a reference of class folders, their names in the order in which trainers number them.
    """

    settings: Mapping[str, Any]
    remark: str
    folders: tuple[str, ...] = ()


def write_first_config(named: Named, out: Path, force: bool) -> Config:
    """Write a config with the keys that matter, and return it checked.

    Args:
        out: the file.
        force: write over one that is there.

    Raises:
        UserError: something cannot be found, and there is no terminal to ask on; nothing is written then.
    """
    if out.exists() and not force:
        raise UserError(f"--out: {str(out)!r} is there already; name another file, or write over it with --force")
    if not named.folder.is_dir():
        raise UserError(f"folder: found {str(named.folder)!r}, which is no folder; give one, or leave it out")
    model = _describe_model(named)
    target = _describe_target(named)
    reference = _describe_reference(named, model, Path(target.settings["root"]))
    name = named.name or re.sub(r"[^A-Za-z0-9._-]+", "-", named.folder.resolve().name).strip("-._") or "audit"
    parts = {"model": model, "reference": reference, "target": target}
    config = validate_config({"name": name, **{k: dict(p.settings) for k, p in parts.items()}}, "init")
    write_atomically(out, _render(name, parts))
    typer.echo(f"wrote {out}")
    return config


def _ask(option: str, question: str, why: str) -> str:
    """An answer from the terminal.

    Raises:
        UserError: there is none to ask on.
    """
    if not sys.stdin.isatty():
        raise UserError(f"--{option}: {printable(why)}")
    typer.echo(printable(why))
    answer: str = typer.prompt(question)
    return answer.strip()


# The target model


def _describe_model(named: Named) -> _Part:
    weights = named.weights or _find_weights(named.folder)
    is_path = not weights.startswith("package:") and weights not in ("random", "pretrained")
    shown = str(Path(weights).expanduser().absolute()) if is_path else weights
    if is_path and is_shard_name(Path(shown).name):
        raise UserError(
            f"--weights: found {Path(shown).name!r}, one part of a checkpoint in several files; give their folder, or "
            "the index beside them"
        )
    if named.arch:
        return _Part({"arch": named.arch, "weights": shown}, "as named")
    if is_path and (Path(shown) / "config.json").is_file():
        return _Part({"arch": f"transformers:{shown}", "weights": "pretrained"}, "a folder of transformers")
    found: list[RecognisedNetwork] = []
    if weights not in ("random", "pretrained"):
        with make_console().status(f"holding {escape(Path(weights).name)} against known architectures"):
            found = recognise_network(*read_weights(weights))
    if not found:
        why = (
            f"the tensors of {weights} are those of none of the architectures that are tried; name it, as "
            "torchvision:resnet50, timm:NAME or path/to/file.py:callable (`lavise layers ARCH` shows what it has)"
        )
        return _Part({"arch": _ask("arch", "architecture", why), "weights": shown}, "as named")
    return _to_model(found, shown)


def _to_model(found: Sequence[RecognisedNetwork], weights: str) -> _Part:
    chosen = found[0]
    settings: dict[str, Any] = {"arch": chosen.arch, "weights": weights}
    if chosen.num_classes is not None and chosen.num_classes != 1000:
        settings["num_classes"] = chosen.num_classes
    places = list(dict.fromkeys((fit.key, fit.prefix) for fit in found if fit.arch == chosen.arch))
    if len(places) > 1:
        keys = ", ".join(key or "." for key, _ in places)
        settings["weights_key"] = _choose_key([key or "." for key, _ in places], keys)
    others = list(dict.fromkeys(fit.arch for fit in found if fit.arch != chosen.arch))
    other = f"; fits {', '.join(others)} as well, which has another preprocessing" if others else ""
    return _Part(settings, f"recognised by its tensors, {chosen.num_parameters:,} numbers{other}")


def _choose_key(keys: Sequence[str], listed: str) -> str:
    why = f"the file holds several networks that fit ({listed}); set model.weights_key in the config to one of them"
    if not sys.stdin.isatty():
        log.warning("%s; %s is taken", why, keys[0])
        return keys[0]
    typer.echo(printable(why))
    answer: str = typer.prompt("which one", type=click.Choice(list(keys)), default=keys[0])
    return answer


def _find_weights(folder: Path) -> str:
    found = sorted(path for pattern in ("*", "*/*") for path in folder.glob(pattern) if _is_checkpoint(path))
    found = [path for path in found if path.parent not in found]  # not what lies in a folder that is one
    if len(found) == 1:
        return str(found[0])
    names = ", ".join(path.relative_to(folder).as_posix() for path in found[:_NUM_SHOWN])
    what = f"{len(found)} checkpoints in {folder} ({names}{', ...' if len(found) > _NUM_SHOWN else ''})"
    if not found:
        what = f"no checkpoint in {folder} ({', '.join(WEIGHT_SUFFIXES)})"
    return _ask("weights", "checkpoint", f"found {what}; name the file")


def _is_checkpoint(path: Path) -> bool:
    """A file of weights, the index of those in shards, or a folder of torch.distributed.checkpoint."""
    if path.is_dir():
        return is_distributed_folder(path)
    whole = is_weights_name(path.name) and not is_companion_name(path.name)
    return path.is_file() and (whole or path.name.endswith(INDEX_SUFFIX))


# Data


def _describe_reference(named: Named, model: _Part, target: Path) -> _Part:
    """The first layout, of all that the folder may have, in which the real reader finds labels.

    Args:
        target: folder of the pictures that need no labels. It is a reference only where nothing else looks like one.
    """
    labels = named.labels
    if labels in _DRAWN:
        return _Part({"kind": labels}, "drawn by the run; it teaches no words for photographs")
    failures: dict[str, str] = {}
    if labels:
        found = _find_labels([Path(labels).expanduser().absolute()], model, failures)
    else:
        whole = named.folder.absolute()
        others = [folder for folder in _list_folders(whole) if folder.resolve() != target.resolve()]
        found = _find_labels(others, model, failures) or _find_labels([whole], model, failures, with_folders=False)
        if found is None and not failures:
            found = _find_labels([whole, target], model, failures)
    if found is not None:
        is_target = Path(found.settings["root"]).resolve() == target.resolve()
        same = "; the same folder as the target, whose own pictures teach the words then" if is_target else ""
        return replace(found, remark=f"{found.remark}{same}")
    reasons = "; ".join(f"as {kind}: {reason}" for kind, reason in list(failures.items())[:_NUM_SHOWN])
    where = labels or f"{named.folder} and the folders in it"
    why = (
        f"found no labelled pictures in {where}{f' ({reasons})' if reasons else ''}; name their folder "
        "(layouts: docs/data.md), or `openmoji` (drawn scenes, which teach no words for photographs)"
    )
    if labels:
        raise UserError(f"--labels: {printable(why)}")
    return _describe_reference(replace(named, labels=_ask("labels", "labelled pictures", why)), model, target)


def _list_folders(folder: Path) -> list[Path]:
    """Those that are called as labelled data often are come first."""
    below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(below, key=lambda path: path.name.lower() not in _LABEL_FOLDERS)[:_MAX_FOLDERS]


def _find_labels(
    roots: Sequence[Path], model: _Part, failures: dict[str, str], with_folders: bool = True
) -> _Part | None:
    """The first of these folders that a reader can read.

    Args:
        failures: by kind of data set, gets why a reader has refused.
        with_folders: whether folders of pictures may be classes.
    """
    for root in roots:
        for settings in guess_layouts(root):
            is_folders = settings["kind"] == "image_folder"
            if is_folders and not with_folders:
                continue
            read = _try_reading(settings, model, failures)
            if read is None:
                continue
            sizes = [f"{len(read.train.records):,} pictures to train on"]
            sizes += [f"{len(read.evaluation.records):,} to evaluate on", f"{len(read.train.concepts):,} categories"]
            own = {**settings, "root": str(Path(settings["root"]).absolute())}
            classes = list_class_folders(root) if is_folders else {}
            # Two folders of one name would be one category, and the network has two outputs.
            folders = tuple(classes.values()) if len(set(classes.values())) == len(classes) else ()
            return _Part(own, ", ".join(sizes), folders)
    return None


def _try_reading(settings: Mapping[str, Any], model: _Part, failures: dict[str, str]) -> Reference | None:
    """What the reader of that kind finds; None, with the reason kept, where it refuses."""
    data = {"name": "init", "model": dict(model.settings), "reference": settings, "target": {"kind": "openmoji"}}
    try:
        config = validate_config(data, "init")
        read = find_format(config.reference.kind).read(config.reference, config.seed)
    except CheckpointError:
        raise
    except UserError as err:
        failures.setdefault(str(settings["kind"]), str(err).splitlines()[0])
        return None
    if not read.train.concepts or not read.train.records:
        failures.setdefault(str(settings["kind"]), "no labels")
        return None
    return read


def _describe_target(named: Named) -> _Part:
    pictures = named.pictures
    if pictures is None:
        likely = (named.folder / name for name in _PICTURE_FOLDERS)
        pictures = next((p for p in likely if p.is_dir() and has_picture(p)), None)
    if pictures is None:
        why = f"found no folder of pictures in {named.folder} ({', '.join(_PICTURE_FOLDERS)}); name it"
        pictures = Path(_ask("pictures", "pictures to explain the filters on", why))
    pictures = pictures.expanduser()
    if not pictures.is_dir() or not has_picture(pictures):
        raise UserError(f"--pictures: found {str(pictures)!r}; allowed: a folder with pictures in it or below it")
    return _Part({"kind": "image_folder", "root": str(pictures.absolute())}, "no label is read")


# The file


def _render(name: str, parts: Mapping[str, _Part]) -> str:
    """YAML with a remark on each section; loading it gives the settings that were checked."""
    about = {
        "model": "the network",
        "reference": "labelled pictures, which teach the explainer words",
        "target": "pictures on which the filters are explained, in which things repeat (30 or more of a kind)",
    }
    lines = [
        "# Written by `lavise init`. `lavise config KEY` explains any setting; docs/settings.md has all of them.",
        _dump({"name": name}),
    ]
    for section, part in parts.items():
        lines += [f"# {about[section]}: {_comment(part.remark)}", _dump({section: dict(part.settings)})]
        if section == "model":
            hints = _hint_at_model(part.settings, parts["reference"].folders)
            lines += [f"  # {_comment(hint)}" for hint in (_LAYERS_HINT, *hints)] + [""]
    lines += [
        "# Words come from GloVe 6B 50d, which comes along; other vectors: `lavise config words.vectors`.",
        "# What is looked at, and how many words are believed: `lavise config explain`.",
        "",
    ]
    return "\n".join(lines)


def _hint_at_model(settings: Mapping[str, Any], folders: Sequence[str]) -> list[str]:
    """What a file of weights does not say, and people forget: the network's input and the names of its classes.

    Args:
        folders: of classes; where they are as many as the network has, they may be its own.
    """
    hints = []
    try:
        built = find_architecture(settings["arch"], settings.get("num_classes"), weights=settings["weights"])
    except UserError:  # the doctor, who comes next, says it
        return []
    if built.stated is None:
        taken = {"size_px": built.size_px, "mean": list(built.mean), "std": list(built.std)}
        hints.append(
            f"preprocessing: {_dump_inline(taken)}  # the default; set what it was trained with, if that differs"
        )
    if "num_classes" in settings:
        number = settings["num_classes"]
        if len(folders) == number:
            names, why = (
                _dump_inline(list(folders)),
                "the reference's folders by name, as many as it has outputs; check",
            )
        else:
            names, why = "[NAME, ...]", f"of its {number} outputs, in order, or a text file"
        hints.append(f"class_names: {names}  # {why}")
    return hints


def _dump_inline(data: object) -> str:
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=True, width=1000).strip()


def _dump(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=1000).rstrip("\n")


def _comment(text: str) -> str:
    """One line: names from data must not end the comment."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
