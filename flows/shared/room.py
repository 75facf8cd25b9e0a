"""Room on the disk for what an audit will write: reckoned before anything is begun, by `lavise run` and the doctor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lavise.configs.errors import NoRoomError
from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.models.layers import Layer
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.free_space import find_largest_file, format_bytes, measure_free_bytes
from lavise.tasks.activations import extract
from lavise.tasks.activations.extraction_size import (
    LabelCounts,
    StoreSize,
    count_labels,
    estimate_agreement_bytes,
    estimate_other_bytes,
    estimate_region_bytes,
)

MARGIN = 0.05
"""Share of what is needed that has to be free besides."""
_NUM_TRIED = 8
# Vocabulary and tables that no layer has a part in, as measured.
_AUDIT_BYTES = 32_000_000


@dataclass(frozen=True)
class StoreRoom:
    """The activation store of one layer on one data set.

    Attributes:
        subject: empty for the audit itself; of a baseline, its name.
        is_there: it is found by its digest.
        written: bytes of finished shards of an attempt that was stopped.
        share: of the maps' bytes that is kept, where they are compressed.
    """

    subject: str
    role: Role
    layer: str
    size: StoreSize
    is_there: bool = False
    written: int = 0
    share: float = 1.0

    @property
    def num_missing_bytes(self) -> int:
        kept = int(self.size.num_bytes * self.size.find_kept_share(self.share))
        return 0 if self.is_there else max(kept - self.written, 0)

    @property
    def num_shard_bytes(self) -> int:
        """Of the largest file that is still to be written."""
        return 0 if self.is_there else int(self.size.num_shard_bytes * self.size.find_kept_share(self.share))


@dataclass(frozen=True)
class Room:
    """What an audit will write.

    Attributes:
        others: bytes by rule, by what they are for, of layers whose maps are not there yet.
        passing: bytes that are there only for a time, at most.
    """

    stores: tuple[StoreRoom, ...]
    others: Mapping[str, int]
    passing: int

    def with_shares(self, shares: Mapping[str, float]) -> Room:
        """Where maps of the audit itself are compressed to these shares, by layer; those of a random network are
        counted whole."""
        stores = (replace(s, share=1.0 if s.subject else shares[s.layer]) for s in self.stores)
        return replace(self, stores=tuple(stores))

    @property
    def num_map_bytes(self) -> int:
        return sum(store.num_missing_bytes for store in self.stores)

    @property
    def num_needed_bytes(self) -> int:
        """With the margin."""
        return int((self.num_map_bytes + sum(self.others.values()) + self.passing) * (1 + MARGIN))

    def stores_by_role(self) -> list[StoreRoom]:
        """By subject and role, with the layers in their order."""
        keys = list(dict.fromkeys((store.subject, store.role) for store in self.stores))
        return sorted(self.stores, key=lambda store: keys.index((store.subject, store.role)))

    def list_sizes(self, role: Role) -> list[StoreSize]:
        """Of the audit itself, of a role: what is extracted in one pass."""
        return [s.size for s in self.stores if s.role == role and not s.subject and not s.is_there]

    @property
    def num_images(self) -> int:
        """Pictures of the audit itself that are still to be looked at, as far as whole stores go."""
        counts: dict[Role, int] = {}
        for store in self.stores:
            if not store.subject and not store.is_there:
                counts[store.role] = store.size.num_images
        return sum(counts.values())


@dataclass(frozen=True)
class Part:
    """A data set as far as sizes go; `num_key_bytes` as in StoreSize."""

    labels: LabelCounts
    num_key_bytes: int


def measure_part(dataset: Dataset) -> Part:
    """Of a data set that was read."""
    labels = count_labels(dataset.records, len(dataset.concepts))
    return Part(labels, sum(len(record.key.encode("utf-8")) for record in dataset.records))


def measure_network(model: TargetModel) -> int:
    """Bytes of its weights."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.network.state_dict().values())


def choose_some(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """A few at even distances, to try something out on."""
    step = max(len(records) / _NUM_TRIED, 1.0)
    return [records[int(i * step)] for i in range(min(_NUM_TRIED, len(records)))]


# Of a subject, a role and a layer: whether its store is there, and bytes of what is there of it.
Look = Callable[[str, Role, str], tuple[bool, int]]


def look_nowhere(subject: str, role: Role, layer: str) -> tuple[bool, int]:
    """Nothing is there."""
    return False, 0


def look_into(store: ArtefactStore, inputs: Mapping[tuple[str, Role], extract.ExtractionInputs]) -> Look:
    """What is in a state folder.

    Args:
        inputs: of the extraction, by subject and role.
    """

    def look(subject: str, role: Role, layer: str) -> tuple[bool, int]:
        own = inputs[subject, role]
        digest = extract.STAGE.find_digest(own.list_requests()[own.layers.index(layer)])
        return store.find(extract.STAGE.name, digest) is not None, store.measure_partial(extract.STAGE.name, digest)

    return look


def reckon_room(
    config: Config,
    layers: Sequence[Layer],
    subjects: Mapping[str, Mapping[Role, Part]],
    num_network_bytes: int,
    look: Look = look_nowhere,
) -> Room:
    """What the audit will write.

    Args:
        subjects: data sets by the name of who is shown them; the audit itself is "".
        num_network_bytes: of the weights, which are packed into the run.
    """
    stores, others, passing = [], dict.fromkeys(("regions", "agreement and overlaps", "all else"), 0), 0
    for subject, parts in subjects.items():
        for layer in layers:
            shape = (layer.channels, layer.height, layer.width)
            missing = set()
            for role, part in parts.items():
                grid = extract.plan_layer(part.labels.num_images, layer, config.extract)
                size = StoreSize(shape, part.labels.num_images, grid.shard_images, part.num_key_bytes)
                store = StoreRoom(subject, role, layer.name, size, *look(subject, role, layer.name))
                stores.append(store)
                if not store.is_there:
                    missing.add(role)
            for role in missing & {Role.TRAIN, Role.EVALUATION}:
                regions = estimate_region_bytes(shape, parts[role].labels)
                others["regions"] += regions
                passing = max(passing, regions)  # parts of the shards, until they are put together
            if Role.EVALUATION in missing:
                others["agreement and overlaps"] += estimate_agreement_bytes(
                    shape, parts[Role.EVALUATION].labels, config.statistics.quantile
                )
            if missing:
                others["all else"] += estimate_other_bytes(layer.channels)
    if any(not store.is_there for store in stores):
        others["all else"] += _AUDIT_BYTES + (2 * num_network_bytes if config.tracking.pack_network else 0)
    return Room(tuple(stores), others, passing)


def describe_lack(room: Room, folder: Path) -> str | None:
    """One line where the disk, or what a file may have, is too small; None where it is enough.

    Args:
        folder: of the state; it need not be there.
    """
    free, needed, limit = measure_free_bytes(folder), room.num_needed_bytes, find_largest_file()
    largest = max((store.num_shard_bytes for store in room.stores), default=0)
    is_packed = any(store.share < 1 for store in room.stores)
    if free < needed:
        maps = f"{format_bytes(room.num_map_bytes)} of them for maps"
        if is_packed:
            maps += ", compressed as on the pictures that were tried"
        compress = "" if is_packed else "set extract.compression, "
        return (
            f"storage.root: needs {format_bytes(needed)} ({maps}, {MARGIN:.0%} to spare), found {format_bytes(free)} "
            f"free at {folder}; set storage.root to another disk, name fewer or later layers (model.layers), {compress}"
            "or make room (`lavise gc` removes what no kept run needs)"
        )
    if limit is not None and limit < largest:
        return (
            f"storage.root: the largest file needs {format_bytes(largest)}, and a file of this process "
            f"may have {format_bytes(limit)} (`ulimit -f`); raise that limit, or lower extract.shard_bytes or "
            "extract.shard_images"
        )
    return None


def check_room(room: Room, folder: Path) -> None:
    """Before anything long is begun.

    Raises:
        NoRoomError: see `describe_lack`.
    """
    if lack := describe_lack(room, folder):
        raise NoRoomError(lack)
