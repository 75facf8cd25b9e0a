"""What an audit will write, what memory its extraction takes, and about how long: before it is begun.

Bytes are reckoned as the run itself does it (`flows/shared/room.py`). Times are measured on a few pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from lavise.configs.drawn_pictures import (
    Drawn,
    OpenMojiReference,
    OpenMojiTarget,
    PatternsReference,
    PatternsTarget,
)
from lavise.configs.errors import UserError
from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.doctor.check import Check, ok
from lavise.flows.doctor.contents import read_within
from lavise.flows.doctor.inputs import find_data_faults
from lavise.flows.doctor.machine import find_free_memory
from lavise.storage.datasets.formats import find_format, find_target_format
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.environment import choose_device, find_state_root
from lavise.storage.state.free_space import format_bytes, measure_free_bytes

if TYPE_CHECKING:
    from lavise.flows.shared.room import Look, Part, Room
    from lavise.storage.datasets.base import Dataset, ImageRecord
    from lavise.storage.models.layers import Layer
    from lavise.storage.models.target_model import TargetModel

_READ_SECONDS = 15.0
_HASH_SECONDS = 10.0
_PROBE_SECONDS = 20.0
# Of the audit that was asked for; others are as large as their settings say.
_OWN, _BASELINE = "", "random network"
# What drawn pictures have, as measured: masks in a scene or mosaic, categories, letters of a name.
_DRAWN_MASKS, _DRAWN_CATEGORIES, _DRAWN_KEY_BYTES = 6, 150, 20
# The shares that extraction had in five audits of 450 to 1,650 pictures on two cores, with nothing in the cache.
_LEAST_SHARE, _LARGEST_SHARE = 0.2, 0.67


def check_extraction(config: Config) -> Iterator[Check]:
    """Bytes by role and layer against what is free; memory; time; what compression and bfloat16 would gain."""
    from lavise.flows.shared.room import describe_lack, measure_network, reckon_room
    from lavise.storage.models.target_model import load_target_model

    if any(find_data_faults(role, own) for role, own in (("reference", config.reference), ("target", config.target))):
        return  # said already
    settings = config.model
    if settings.weights == "pretrained":  # looking must not download
        settings = settings.model_copy(update={"weights": "random"})
    try:
        with _said_before():
            model = load_target_model(settings, config.seed)
        layers = model.select_layers(settings.layers)
        data = read_within(_READ_SECONDS, lambda: _read(config))
    except UserError:
        return  # said already
    if data is None:
        found = f"the data are not read through within {_READ_SECONDS:g} s, so that nothing was reckoned"
        yield Check("room", "warning", found, "nothing; a run reckons it before it begins")
        return
    root = find_state_root(config.storage.root)
    subjects = {_OWN: {role: _measure(role, data, config) for role in Role}}
    if "random_network" in config.evaluate.baselines:
        most = config.evaluate.baseline_images
        subjects[_BASELINE] = {role: _take(part, most) for role, part in subjects[_OWN].items()}
    look, note = _find_look(config, model, layers, data)
    room = reckon_room(config, layers, subjects, measure_network(model), look)
    device = choose_device(config.device)
    records = [record for own in data.values() for record in own.records]
    if config.extract.compression != "none":
        room = room.with_shares(_measure_shares(config, model, layers, records, device))
    yield from _describe_stores(room)
    free, needed = format_bytes(measure_free_bytes(root)), format_bytes(room.num_needed_bytes)
    by_rule = ", ".join(f"{what} {format_bytes(size)}" for what, size in room.others.items() if size)
    found = f"needs {needed}, {free} free at {root}; maps {format_bytes(room.num_map_bytes)}"
    found += f"; by rule: {by_rule}" if by_rule else ""
    if lack := describe_lack(room, root):
        yield Check("room", "failed", found, lack.partition("; ")[2])
    else:
        yield ok("room", found + note)
    yield _check_memory(room)
    yield from _probe(config, model, records, room, device)


@contextmanager
def _said_before() -> Iterator[None]:
    """What loading the model logs has been logged by the check of the model."""
    logger = logging.getLogger("lavise")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _read(config: Config) -> dict[Role, Dataset]:
    """What can be read without drawing anything."""
    found: dict[Role, Dataset] = {}
    if not isinstance(config.reference, Drawn):
        both = find_format(config.reference.kind).read(config.reference, config.seed)
        found |= {Role.TRAIN: both.train, Role.EVALUATION: both.evaluation}
    if not isinstance(config.target, Drawn):
        found[Role.TARGET] = find_target_format(config.target.kind).read(config.target)
    return found


def _measure(role: Role, data: Mapping[Role, Dataset], config: Config) -> Part:
    from lavise.flows.shared.room import Part, measure_part
    from lavise.tasks.activations.extraction_size import LabelCounts

    if role in data:
        return measure_part(data[role])
    number = _count_drawn(role, config)
    masks = 0 if role == Role.TARGET else _DRAWN_MASKS * number
    return Part(LabelCounts(number, masks, masks, _DRAWN_CATEGORIES), _DRAWN_KEY_BYTES * number)


def _count_drawn(role: Role, config: Config) -> int:
    reference, target = config.reference, config.target
    if role == Role.TARGET:
        assert isinstance(target, OpenMojiTarget | PatternsTarget)
        return target.scenes if isinstance(target, OpenMojiTarget) else target.images
    if isinstance(reference, OpenMojiReference):
        return reference.train_scenes if role == Role.TRAIN else reference.evaluation_scenes
    assert isinstance(reference, PatternsReference)
    return reference.train_images if role == Role.TRAIN else reference.evaluation_images


def _take(part: Part, num_images: int) -> Part:
    """As of the first pictures, with as many labels each as all have."""
    labels = part.labels
    share = min(1.0, num_images / max(labels.num_images, 1))
    counts = {name: int(getattr(labels, name) * share) for name in ("num_images", "num_masks", "num_pairs")}
    return replace(part, labels=replace(labels, **counts), num_key_bytes=int(part.num_key_bytes * share))


def _find_look(
    config: Config, model: TargetModel, layers: list[Layer], data: Mapping[Role, Dataset]
) -> tuple[Look, str]:
    """What is in the state folder already, and what to say where that cannot be told in a short time."""
    from lavise.flows.shared.room import look_into, look_nowhere
    from lavise.tasks.activations.extract import ExtractionInputs
    from lavise.tasks.engine.stage_inputs import Given

    root = find_state_root(config.storage.root)
    if not (root / "artefacts").is_dir():
        return look_nowhere, ""
    untold = "; as if nothing was in the cache, which a run looks up"
    if config.model.weights == "pretrained" or set(data) != set(Role):
        return look_nowhere, untold
    digests = read_within(_HASH_SECONDS, lambda: {role: own.digest_images() for role, own in data.items()})
    if digests is None:
        return look_nowhere, untold
    names, device = tuple(layer.name for layer in layers), choose_device(config.device)
    inputs = {
        (_OWN, role): ExtractionInputs(model, names, Given(data[role], digests[role]), config.extract, device)
        for role in Role
    }
    own = look_into(ArtefactStore(root), inputs)

    def look(subject: str, role: Role, layer: str) -> tuple[bool, int]:
        is_there, written = own(_OWN, role, layer)
        return (is_there, 0) if subject else (is_there, written)  # a baseline is made after the maps of the audit

    return look, ""


def _describe_stores(room: Room) -> Iterator[Check]:
    """A line for each role of the audit, and one for its baseline."""
    for (subject, role), stores in groupby(room.stores_by_role(), key=lambda store: (store.subject, store.role)):
        texts = []
        for store in stores:
            channels, height, width = store.size.shape
            size = "there already" if store.is_there else format_bytes(store.num_missing_bytes)
            texts.append(f"{store.layer} ({channels} x {height} x {width}): {size}")
            number = store.size.num_images
        name = f"baseline maps {role}" if subject else f"maps {role}"
        yield ok(name, f"{number:,} pictures; {'; '.join(texts)}")


def _check_memory(room: Room) -> Check:
    from lavise.tasks.activations.extraction_size import estimate_writing_memory

    most = max((size.num_shard_bytes for size in room.list_sizes(Role.TARGET)), default=0)
    need, free = max(estimate_writing_memory(room.list_sizes(role)) for role in Role), find_free_memory()
    found = f"about {format_bytes(need)} beside the network and its batch (largest shard: {format_bytes(most)})"
    if need > free:
        advice = "lower extract.shard_bytes, or name fewer layers"
        return Check("memory of extraction", "failed", f"{found}; {format_bytes(free)} can be had", advice)
    return ok("memory of extraction", found)


def _measure_shares(
    config: Config, model: TargetModel, layers: list[Layer], records: list[ImageRecord], device: str
) -> dict[str, float]:
    """That compression leaves of the maps of each layer; all of them where it cannot be measured in time."""
    from lavise.flows.shared.room import choose_some
    from lavise.tasks.activations.extract import find_compression
    from lavise.tasks.activations.extraction_probe import measure_stored_shares

    some, compression = choose_some(records), find_compression(config.extract, device)
    shares = read_within(_PROBE_SECONDS, lambda: measure_stored_shares(some, model, layers, device, compression))
    return shares or {layer.name: 1.0 for layer in layers}


def _probe(config: Config, model: TargetModel, records: list[ImageRecord], room: Room, device: str) -> Iterator[Check]:
    """Times, on a few pictures."""
    from lavise.flows.shared.room import choose_some
    from lavise.tasks.activations.extraction_probe import probe_extraction

    some = choose_some(records)
    if not some:
        yield ok("time of extraction", "not measured: the pictures are drawn by the run")
        return
    probe = read_within(_PROBE_SECONDS, lambda: probe_extraction(some, model, device, _PROBE_SECONDS / 4))
    if probe is None:
        yield ok("time of extraction", f"not measured within {_PROBE_SECONDS:g} s")
        return
    low, high = probe.estimate_seconds(room.num_images, config.extract.decode_threads)
    whole = f"{_describe_time(low / _LARGEST_SHARE)} to {_describe_time(high / _LEAST_SHARE)}"
    yield ok(
        "time of extraction",
        f"about {_describe_time(low)} to {_describe_time(high)} for {room.num_images:,} pictures that are not there "
        f"yet ({1000 * probe.decode:.0f} ms to decode one, {1000 * probe.forward:.0f} ms in the network, on {device}, "
        f"measured on {probe.num_images}); the whole audit, as in five that were measured: about {whole}",
    )
    if probe.forward_bfloat16 is not None:
        gain = probe.forward / probe.forward_bfloat16
        yield ok(
            "bfloat16",
            f"torch.autocast takes {1 / gain:.2f} of the time on {device} (below 1 is faster); maps differ with it",
        )


def _describe_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
