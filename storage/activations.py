"""The activation store: the maps of one layer on one data set, in HDF5 shards of a fixed number of pictures.

A shard is written under a temporary name, flushed and renamed: it is there whole or not at all, and only the rename
counts. The store is complete when `index.json` is there; a virtual data set (`activations.h5`) then shows all shards
as one. Missing shards of a virtual data set read as zeros, so shards are always checked against the index first.

Shape legend: N pictures, C filters, H x W cells. Maps are float16 [N, C, H, W], peaks float16
[N, C], means float32 [N, C].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import h5py
import numpy as np

from lavise.configs.errors import CheckpointError, UserError
from lavise.configs.schema import Compression
from lavise.storage.array_files import ColumnFile
from lavise.storage.array_types import FloatArray, HalfArray, IntArray
from lavise.storage.map_summaries import MapSummary, summarise_maps
from lavise.storage.state.files import write_bytes, write_json

INDEX_FILE = "index.json"
VIRTUAL_FILE = "activations.h5"
_PLAIN = "plain_sha256"
# `auto` compresses what gets smaller than this share, on so many pictures of a shard.
_WORTH, _NUM_TRIED = 0.5, 4


@dataclass(frozen=True)
class ShardGrid:
    """Which pictures are in which shard. Pure arithmetic."""

    num_images: int
    shard_images: int

    @property
    def num_shards(self) -> int:
        return -(-self.num_images // self.shard_images)

    def images_of(self, shard: int) -> range:
        """Positions, in the data set, of the pictures of a shard."""
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard} of {self.num_shards}")
        start = shard * self.shard_images
        return range(start, min(start + self.shard_images, self.num_images))


def shard_name(shard: int) -> str:
    return f"shard-{shard:06d}.h5"


def write_shard(
    folder: Path,
    shard: int,
    maps_NCHW: HalfArray,
    keys: Sequence[str],
    broken: Mapping[str, str],
    provenance: Mapping[str, str],
    flat: Sequence[str] = (),
    summary: MapSummary | None = None,
    compression: Compression = "none",
) -> None:
    """Write one shard, whole or not at all.

    Args:
        maps_NCHW: float16.
        keys: of the pictures, N of them.
        broken: pictures of this shard that could not be read, with the reason.
        flat: of the keys, those of pictures that are nearly of one shade.
        summary: of the maps, where it is known already.
        compression: of the maps. A shard that is compressed holds the sha256 of the file that it would be without.

    Raises:
        CheckpointError: a value that is not finite (float16 ends at 65,504).
        UserError: the package is not installed that compresses.
        OSError: the file cannot be written; nothing is left of it.
    """
    if maps_NCHW.shape[0] != len(keys):
        raise ValueError(f"expected one key for each picture, found {maps_NCHW.shape=} and {len(keys)=}")
    summary = summary or summarise_maps(maps_NCHW)
    is_finite_NC = np.isfinite(summary.means_NC)
    if not is_finite_NC.all():
        bad = int(np.flatnonzero(~is_finite_NC.all(axis=0))[0])
        raise CheckpointError(
            f"model.layers: the layer's activation is not finite or above 65,504 (filter {bad}, a picture of "
            f"{keys[0]!r} to {keys[-1]!r}); check the weights and the preprocessing, or choose another layer"
        )
    final = folder / shard_name(shard)
    attributes = {**provenance, "broken": json.dumps(dict(sorted(broken.items())))}
    if flat:
        attributes["flat"] = json.dumps(sorted(flat))
    options = find_filter(choose_compression(maps_NCHW, compression))
    content = _make_shard(maps_NCHW, summary, keys, attributes, {})
    if options:
        attributes[_PLAIN] = hashlib.sha256(content).hexdigest()
        content = _make_shard(maps_NCHW, summary, keys, attributes, options)
    # HDF5 writes to memory alone: what an error of the disk does to it ends the process (docs/layers.md).
    write_bytes(final, content)


def _make_shard(
    maps_NCHW: HalfArray,
    summary: MapSummary,
    keys: Sequence[str],
    attributes: Mapping[str, str],
    options: Mapping[str, Any],
) -> bytes:
    """The bytes of a shard's file, made in memory."""
    num, *chw = maps_NCHW.shape
    with h5py.File("shard", "w", driver="core", backing_store=False) as file:
        file.create_dataset(
            *("maps", maps_NCHW.shape, maps_NCHW.dtype, maps_NCHW),
            **{"chunks": (1, *chw), "maxshape": (None, *chw), "fletcher32": True, "track_times": False, **options},
        )
        for name, own in (("peaks", summary.peaks_NC), ("means", summary.means_NC)):
            shapes = {"chunks": (max(num, 1), chw[0]), "maxshape": (None, chw[0])}
            file.create_dataset(name, data=own, fletcher32=True, **shapes)
        texts = np.array(list(keys), dtype=object)
        file.create_dataset("keys", data=texts, dtype=h5py.string_dtype(), maxshape=(None,))
        # In the order in which they always were: it is part of the bytes.
        for name in ("broken", "flat", *(n for n in attributes if n not in ("broken", "flat"))):
            if name in attributes:
                file.attrs[name] = attributes[name]
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def choose_compression(maps_NCHW: HalfArray, compression: Compression) -> Compression:
    """What is done with these maps; `auto` hangs on the first of them alone."""
    if compression != "auto":
        return compression
    if not len(maps_NCHW):
        return "none"
    some = maps_NCHW[:_NUM_TRIED]
    return "gzip" if measure_compressed(some, "gzip") < _WORTH * some.nbytes else "none"


def measure_compressed(maps_NCHW: HalfArray, compression: Compression) -> int:
    """Bytes that HDF5 keeps of maps."""
    chunks, compression = (1, *maps_NCHW.shape[1:]), choose_compression(maps_NCHW, compression)
    with h5py.File("maps", "w", driver="core", backing_store=False) as file:
        made = file.create_dataset("maps", data=maps_NCHW, chunks=chunks, **find_filter(compression))
        stored: int = made.id.get_storage_size()
    return stored


def find_filter(compression: Compression) -> dict[str, Any]:
    """What h5py is told of how maps are compressed; nothing for `none`, and for `auto`, of which nothing is known yet.

    Raises:
        UserError: the package is not installed.
    """
    if compression in ("none", "auto"):
        return {}
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 1}
    try:
        import hdf5plugin
    except ImportError:
        raise UserError(
            f"extract.compression: found {compression!r}, which needs the package hdf5plugin; "
            "`pip install 'lavise[compression]'`, or set it to gzip or none"
        ) from None
    return dict(hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.SHUFFLE))


def read_plain_digests(folder: Path, num_shards: int) -> dict[str, str]:
    """By file name, of the shards that are compressed: sha256 of what they would be without."""
    found = {}
    for shard in range(num_shards):
        with h5py.File(folder / shard_name(shard), "r") as file:
            if _PLAIN in file.attrs:
                found[shard_name(shard)] = str(file.attrs[_PLAIN])
    return found


def has_shard(folder: Path, shard: int) -> bool:
    """Whether the shard has been finished."""
    return (folder / shard_name(shard)).is_file()


def read_broken(folder: Path, shard: int) -> dict[str, str]:
    """Of a finished shard: pictures that could not be read, with the reason."""
    with _open_shard(folder / shard_name(shard)) as file:
        broken: dict[str, str] = json.loads(file.attrs["broken"])
    return broken


class StoreIndex(TypedDict):
    """index.json of a store: its pictures in their order, [C, H, W] of the maps, pictures in each shard, by key why a
    picture could not be read, and where there are any, the keys of pictures that are nearly of one shade."""

    num_images: int
    shape: list[int]
    shards: list[int]
    keys: list[str]
    broken: dict[str, str]
    flat: NotRequired[list[str]]


def finish_store(folder: Path, grid: ShardGrid) -> StoreIndex:
    """Check that every shard is there, then write the index and the virtual data set."""
    missing = [shard_name(s) for s in range(grid.num_shards) if not has_shard(folder, s)]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {grid.num_shards} shards are missing in {folder}: {missing[:3]}")
    for stray in folder.glob("*.tmp"):
        stray.unlink()
    counts, keys, broken, flat = [], [], {}, []
    chw: tuple[int, ...] = ()
    for shard in range(grid.num_shards):
        with h5py.File(folder / shard_name(shard), "r") as file:
            counts.append(int(file["maps"].shape[0]))
            chw = tuple(int(n) for n in file["maps"].shape[1:])
            keys += [k.decode("utf-8") for k in file["keys"][:]]
            broken.update(json.loads(file.attrs["broken"]))
            flat += json.loads(file.attrs.get("flat", "[]"))
    _write_virtual(folder / VIRTUAL_FILE, counts, chw)
    index: StoreIndex = {
        "num_images": sum(counts),
        "shape": list(chw),
        "shards": counts,
        "keys": keys,
        "broken": broken,
    }
    if flat:
        index["flat"] = flat
    write_json(folder / INDEX_FILE, index)
    return index


def _write_virtual(path: Path, counts: Sequence[int], chw: tuple[int, ...]) -> None:
    """The shards as one data set. By h5py's low level, since only that leaves the time out: same maps, same bytes."""
    space = h5py.h5s.create_simple((sum(counts), *chw))
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_obj_track_times(False)
    start = 0
    for shard, count in enumerate(counts):
        if count:
            space.select_hyperslab((start, *(0 for _ in chw)), (count, *chw))
            source = h5py.h5s.create_simple((count, *chw))
            layout.set_virtual(space, shard_name(shard).encode(), b"maps", source)
        start += count
    space.select_all()
    with h5py.File("virtual", "w", driver="core", backing_store=False) as file:
        h5py.h5d.create(file.id, b"maps", h5py.h5t.IEEE_F16LE, space, layout)
        file.flush()
        image: bytes = file.id.get_file_image()
    write_bytes(path, image)


class ActivationStore:
    """Reads a finished store.

    Attributes:
        keys: of the pictures, in order; pictures that could not be read are not among them.
        shape: (N, C, H, W).
        broken: pictures that could not be read, with the reason.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / INDEX_FILE).read_text("utf-8"))
        self.folder = folder
        self.keys: list[str] = index["keys"]
        self.shape: tuple[int, int, int, int] = (index["num_images"], *index["shape"])
        self.broken: dict[str, str] = index["broken"]
        self._counts: list[int] = index["shards"]
        missing = [shard_name(s) for s in range(self.num_shards) if not has_shard(folder, s)]
        if missing:
            raise FileNotFoundError(f"the activation store {folder} lacks {missing[:3]}")

    @property
    def num_shards(self) -> int:
        return len(self._counts)

    @cached_property
    def starts(self) -> list[int]:
        """Position of the first picture of each shard, and N at the end."""
        return [0, *np.cumsum(self._counts).tolist()]

    def shard_path(self, shard: int) -> Path:
        return self.folder / shard_name(shard)

    def read_peaks(self) -> HalfArray:
        """Highest activation of each filter on each picture: float16 [N, C]."""
        return np.concatenate([self._read(s, "peaks") for s in range(self.num_shards)])

    def read_means(self) -> FloatArray:
        """Mean activation of each filter on each picture: float32 [N, C]."""
        return np.concatenate([self._read(s, "means") for s in range(self.num_shards)])

    def iterate(self, name: Literal["peaks", "means"]) -> Iterator[tuple[slice, Any]]:
        """Peaks or means (see `read_peaks`, `read_means`) of one shard after the other: its pictures, and [n, C]."""
        for shard in range(self.num_shards):
            yield slice(self.starts[shard], self.starts[shard + 1]), self._read(shard, name)

    def iterate_means(self, rows: int) -> Iterator[FloatArray]:
        """Means of so many pictures at a time, the last time of what is left: float32 [rows, C]."""
        held = np.zeros((0, self.shape[1]), np.float32)
        for _, means_nC in self.iterate("means"):
            held = np.concatenate([held, means_nC])
            while len(held) >= rows:
                yield held[:rows]
                held = held[rows:]
        if len(held):
            yield held

    def read_peaks_of(self, positions: IntArray) -> HalfArray:
        """The same of some pictures, by rising position: float16 [len(positions), C]."""
        ends = np.searchsorted(positions, self.starts)
        parts = [
            self._read(shard, "peaks")[positions[ends[shard] : ends[shard + 1]] - self.starts[shard]]
            for shard in range(self.num_shards)
            if ends[shard] < ends[shard + 1]
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.shape[1]), np.float16)

    @contextmanager
    def turn_peaks(self) -> Iterator[ColumnFile]:
        """The peaks by filter, float16 [C, N], on the disk."""
        with ColumnFile(self.folder, np.float16, (self.shape[1], self.shape[0])) as turned:
            for own, peaks in self.iterate("peaks"):
                turned.write_columns(own.start, peaks.T)
            yield turned

    def read_provenance(self) -> dict[str, str]:
        """What the shards say of themselves: model, arch, layer, preprocessing (JSON)."""
        with _open_shard(self.shard_path(0)) as file:
            return {name: str(value) for name, value in file.attrs.items() if name not in ("broken", "flat", _PLAIN)}

    def _read(self, shard: int, name: str) -> Any:
        with _open_shard(self.shard_path(shard)) as file:
            return file[name][:]

    def read_images(self, positions: Sequence[int]) -> HalfArray:
        """Maps of some pictures, in the order asked for: float16 [len(positions), C, H, W]."""
        out = np.empty((len(positions), *self.shape[1:]), dtype=np.float16)
        wanted = np.asarray(positions, dtype=np.int64)
        shards = np.searchsorted(self.starts, wanted, side="right") - 1
        for shard in np.unique(shards):
            rows = np.flatnonzero(shards == shard)
            with _open_shard(self.shard_path(int(shard))) as file:
                for row in rows:
                    out[row] = file["maps"][int(wanted[row]) - self.starts[shard]]
        return out


def read_shard_maps(path: Path) -> HalfArray:
    """All maps of one shard: float16 [n, C, H, W]; a damaged one raises OSError (checksum)."""
    with _open_shard(path) as file:
        maps: HalfArray = file["maps"][:]
    return maps


@contextmanager
def _open_shard(path: Path) -> Iterator[Any]:
    try:
        with h5py.File(path, "r") as file:
            _require_filters(file, path)
            yield file
    except OSError as err:
        # Large shards are not hashed again in every run: their checksums speak when they are read.
        reason = " ".join(str(err).split())[:120]
        raise OSError(f"{path} is damaged ({reason}); delete {path.parent} and run again") from err


def _require_filters(file: Any, path: Path) -> None:
    """Have what decompresses the maps.

    Raises:
        UserError: it is not installed.
    """
    properties = file["maps"].id.get_create_plist()
    filters = [properties.get_filter(number) for number in range(properties.get_nfilters())]
    if all(h5py.h5z.filter_avail(code) for code, *_ in filters):
        return
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401 - being imported, it makes its filters known

    lacking = [name.decode("utf-8", "replace") for code, _, _, name in filters if not h5py.h5z.filter_avail(code)]
    if lacking:
        raise UserError(
            f"extract.compression: the maps in {path} are compressed by {', '.join(lacking)}, which cannot be read "
            "here; `pip install 'lavise[compression]'` wherever lavise runs, or make them anew without"
        )
