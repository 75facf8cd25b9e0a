from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import h5py
import numpy as np
import pytest

from lavise.configs.errors import UserError
from lavise.configs.schema import Compression
from lavise.storage.activations import (
    ActivationStore,
    ShardGrid,
    finish_store,
    has_shard,
    measure_compressed,
    read_plain_digests,
    read_shard_maps,
    shard_name,
    write_shard,
)
from lavise.storage.array_types import HalfArray
from tests.file_limits import limit_files

CHW = (5, 3, 4)


def make_maps(num_images: int, seed: int = 0) -> HalfArray:
    return np.random.default_rng(seed).normal(size=(num_images, *CHW)).astype(np.float16)


def write_store(folder: Path, maps: HalfArray, shard_images: int) -> ShardGrid:
    grid = ShardGrid(len(maps), shard_images)
    for shard in range(grid.num_shards):
        rows = grid.images_of(shard)
        keys = [f"pictures/{i}.jpg" for i in rows]
        write_shard(folder, shard, maps[rows.start : rows.stop], keys, {}, {"layer": "layer4"})
    return grid


def flip_byte(path: Path, content: bytes) -> None:
    """Flip one bit in the place where `content` lies in the file."""
    data = bytearray(path.read_bytes())
    at = data.index(content)
    data[at + len(content) // 2] ^= 0x10
    path.write_bytes(bytes(data))


# Which pictures are in which shard


@pytest.mark.parametrize(("num_images", "shard_images"), [(1, 1), (1, 8), (8, 8), (9, 8), (23, 4), (0, 4)])
def test_grid_vs_brute_force(num_images: int, shard_images: int) -> None:
    grid = ShardGrid(num_images, shard_images)
    shards: list[list[int]] = []
    for image in range(num_images):
        if image % shard_images == 0:
            shards.append([])
        shards[-1].append(image)
    assert grid.num_shards == len(shards)
    assert [list(grid.images_of(s)) for s in range(grid.num_shards)] == shards


@pytest.mark.parametrize("shard", [-1, 3])
def test_grid_has_no_such_shard(shard: int) -> None:
    with pytest.raises(IndexError, match=f"shard {shard} of 3"):
        ShardGrid(9, 4).images_of(shard)


# Shards


def test_shard_write_and_read(tmp_path: Path) -> None:
    maps = make_maps(3)
    keys = ["a.jpg", "ordner/ü.jpg", "c d.png"]
    write_shard(tmp_path, 7, maps, keys, {"z.jpg": "not found", "b.jpg": "ü"}, {"layer": "layer4", "weights": "ab"})
    path = tmp_path / "shard-000007.h5"
    read = read_shard_maps(path)
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, maps)
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(file["peaks"][:], maps.max(axis=(2, 3)))
        assert file["peaks"].dtype == np.float16
        np.testing.assert_allclose(file["means"][:], maps.astype(np.float64).mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
        assert file["means"].dtype == np.float32
        assert [k.decode() for k in file["keys"][:]] == keys
        assert json.loads(file.attrs["broken"]) == {"b.jpg": "ü", "z.jpg": "not found"}
        assert (file.attrs["layer"], file.attrs["weights"]) == ("layer4", "ab")
        assert all(file[name].fletcher32 for name in ("maps", "peaks", "means"))
        assert file["maps"].chunks == (1, *CHW)


def test_means_do_not_overflow_in_half_precision(tmp_path: Path) -> None:
    maps = np.full((1, 2, 8, 8), 60_000, dtype=np.float16)
    write_shard(tmp_path, 0, maps, ["a"], {}, {})
    with h5py.File(tmp_path / shard_name(0), "r") as file:
        np.testing.assert_allclose(file["means"][:], float(np.float16(60_000)))


def test_shard_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    assert not has_shard(tmp_path, 0)
    (tmp_path / "shard-000000.h5.tmp").write_bytes(b"half of a shard")
    assert not has_shard(tmp_path, 0)
    write_shard(tmp_path, 0, make_maps(2), ["a", "b"], {}, {})
    assert has_shard(tmp_path, 0)
    finish_store(tmp_path, ShardGrid(2, 2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["activations.h5", "index.json", "shard-000000.h5"]


def test_folder_with_the_name_of_a_shard_is_no_shard(tmp_path: Path) -> None:
    (tmp_path / shard_name(0)).mkdir()
    assert not has_shard(tmp_path, 0)


def test_shard_may_be_written_again(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, make_maps(2), ["a", "b"], {}, {})
    write_shard(tmp_path, 0, make_maps(3, seed=1), ["a", "b", "c"], {}, {})
    np.testing.assert_array_equal(read_shard_maps(tmp_path / shard_name(0)), make_maps(3, seed=1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 70_000.0])
def test_value_that_half_precision_cannot_hold(tmp_path: Path, value: float) -> None:
    maps = make_maps(3).astype(np.float32)
    maps[1, 4, 2, 1] = value
    with np.errstate(over="ignore"):
        half = maps.astype(np.float16)
    with pytest.raises(
        UserError,
        match=r"^model\.layers: the layer's activation is not finite or above 65,504 \(filter 4, a picture of 'a' to "
        r"'c'\); check the weights and the preprocessing, or choose another layer$",
    ):
        write_shard(tmp_path, 0, half, ["a", "b", "c"], {}, {})
    assert list(tmp_path.iterdir()) == []


def test_largest_half_is_kept(tmp_path: Path) -> None:
    maps = np.full((1, *CHW), 65_504, dtype=np.float16)
    write_shard(tmp_path, 0, maps, ["a"], {}, {})
    np.testing.assert_array_equal(read_shard_maps(tmp_path / shard_name(0)), maps)


def test_one_key_for_each_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one key for each picture, found .*\(2, 5, 3, 4\) and len\(keys\)=1"):
        write_shard(tmp_path, 0, make_maps(2), ["a"], {}, {})


@pytest.mark.parametrize("name", ["maps", "peaks", "means"])
def test_flipped_byte_in_a_shard_is_noticed(tmp_path: Path, name: str) -> None:
    write_store(tmp_path, make_maps(4), 2)
    finish_store(tmp_path, ShardGrid(4, 2))
    path = tmp_path / shard_name(1)
    with h5py.File(path, "r") as file:
        content = file[name][1].tobytes()
    flip_byte(path, content)
    store = ActivationStore(tmp_path)
    read = {"peaks": store.read_peaks, "means": store.read_means, "maps": lambda: store.read_images([3])}[name]
    with pytest.raises(OSError, match="read data"):
        read()
    if name == "maps":
        with pytest.raises(OSError, match="read data"):
            read_shard_maps(path)
        np.testing.assert_array_equal(store.read_images([0, 1, 2]), make_maps(4)[:3])


def test_truncated_shard_is_noticed(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, make_maps(4), list("abcd"), {}, {})
    path = tmp_path / shard_name(0)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match="truncated"):
        read_shard_maps(path)


# Stores


@pytest.mark.parametrize(("num_images", "shard_images"), [(1, 4), (8, 4), (10, 4), (3, 1)])
def test_store_equals_what_was_written(tmp_path: Path, num_images: int, shard_images: int) -> None:
    maps = make_maps(num_images)
    grid = write_store(tmp_path, maps, shard_images)
    index = finish_store(tmp_path, grid)
    assert index["num_images"] == num_images
    assert index["shape"] == list(CHW)
    store = ActivationStore(tmp_path)
    assert store.shape == (num_images, *CHW)
    assert store.keys == [f"pictures/{i}.jpg" for i in range(num_images)]
    assert store.broken == {}
    assert store.num_shards == grid.num_shards
    assert store.starts == [*range(0, num_images, shard_images), num_images]
    np.testing.assert_array_equal(store.read_peaks(), maps.max(axis=(2, 3)))
    np.testing.assert_allclose(store.read_means(), maps.astype(np.float64).mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(store.read_images(range(num_images)), maps)


def test_virtual_data_set_equals_the_shards_also_after_a_move(tmp_path: Path) -> None:
    maps = make_maps(10)
    folder = tmp_path / "made.partial"
    folder.mkdir()
    finish_store(folder, write_store(folder, maps, 4))
    folder.rename(tmp_path / "final")
    with h5py.File(tmp_path / "final" / "activations.h5", "r") as file:
        assert file["maps"].is_virtual
        assert file["maps"].dtype == np.float16
        np.testing.assert_array_equal(file["maps"][:], maps)


@pytest.mark.parametrize("positions", [[9, 0, 5, 4], [3, 3, 3], [7], [], [0, 9, 0, 8, 1, 7, 2]])
def test_read_images_in_any_order(tmp_path: Path, positions: list[int]) -> None:
    maps = make_maps(10)
    finish_store(tmp_path, write_store(tmp_path, maps, 4))
    read = ActivationStore(tmp_path).read_images(positions)
    assert read.dtype == np.float16
    assert read.shape == (len(positions), *CHW)
    np.testing.assert_array_equal(read, maps[positions])


def test_pictures_that_could_not_be_read_are_left_out_and_listed(tmp_path: Path) -> None:
    """Three shards of two pictures; one picture of the first and both of the second are broken."""
    maps = make_maps(3)
    write_shard(tmp_path, 0, maps[:1], ["a"], {"b": "not found"}, {})
    write_shard(tmp_path, 1, maps[:0], [], {"c": "truncated", "d": "no picture"}, {})
    write_shard(tmp_path, 2, maps[1:], ["e", "f"], {}, {})
    index = finish_store(tmp_path, ShardGrid(6, 2))
    assert index["shards"] == [1, 0, 2]
    store = ActivationStore(tmp_path)
    assert store.keys == ["a", "e", "f"]
    assert store.broken == {"b": "not found", "c": "truncated", "d": "no picture"}
    np.testing.assert_array_equal(store.read_images([2, 0, 1]), maps[[2, 0, 1]])
    np.testing.assert_array_equal(store.read_peaks(), maps.max(axis=(2, 3)))
    assert store.read_means().shape == (3, CHW[0])
    with h5py.File(tmp_path / "activations.h5", "r") as file:
        np.testing.assert_array_equal(file["maps"][:], maps)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    grid = write_store(tmp_path, make_maps(10), 4)
    (tmp_path / shard_name(1)).rename(tmp_path / "shard-000001.tmp")
    with pytest.raises(FileNotFoundError, match=r"1 of 3 shards are missing in .*: \['shard-000001\.h5'\]"):
        finish_store(tmp_path, grid)
    assert not (tmp_path / "index.json").exists()
    assert not (tmp_path / "activations.h5").exists()


def test_shard_that_goes_missing_later_is_named_and_not_read_as_zeros(tmp_path: Path) -> None:
    finish_store(tmp_path, write_store(tmp_path, make_maps(10), 4))
    (tmp_path / shard_name(2)).unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks \['shard-000002\.h5'\]"):
        ActivationStore(tmp_path)


def test_unfinished_store_cannot_be_opened(tmp_path: Path) -> None:
    write_store(tmp_path, make_maps(4), 2)
    with pytest.raises(FileNotFoundError, match=r"index\.json"):
        ActivationStore(tmp_path)


def test_finishing_sweeps_up_what_a_killed_run_left(tmp_path: Path) -> None:
    grid = write_store(tmp_path, make_maps(4), 2)
    (tmp_path / "shard-000001.tmp").write_bytes(b"half")
    finish_store(tmp_path, grid)
    finish_store(tmp_path, grid)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "activations.h5",
        "index.json",
        "shard-000000.h5",
        "shard-000001.h5",
    ]


def test_same_maps_same_bytes(tmp_path: Path) -> None:
    """Files of two runs can be compared by their hashes: no time of day is in them."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        finish_store(tmp_path / name, write_store(tmp_path / name, make_maps(5), 2))
        time.sleep(1.1 if name == "one" else 0)  # HDF5 keeps times in seconds
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert len(files) == 5
    assert [f for f in files if (tmp_path / "one" / f).read_bytes() != (tmp_path / "two" / f).read_bytes()] == []


@pytest.mark.parametrize("rows", [1, 3, 4, 7, 100])
def test_parts_of_peaks_and_means_are_the_whole(tmp_path: Path, rows: int) -> None:
    finish_store(tmp_path, write_store(tmp_path, make_maps(11), 4))
    store = ActivationStore(tmp_path)
    for found, whole in (
        (list(store.iterate("peaks")), store.read_peaks()),
        (list(store.iterate("means")), store.read_means()),
    ):
        assert [own for own, _ in found] == [slice(0, 4), slice(4, 8), slice(8, 11)]
        np.testing.assert_array_equal(np.concatenate([part for _, part in found]), whole)
    parts = list(store.iterate_means(rows))
    np.testing.assert_array_equal(np.concatenate(parts), store.read_means())
    assert [len(part) for part in parts[:-1]] == [rows] * (len(parts) - 1)
    with store.turn_peaks() as turned:
        np.testing.assert_array_equal(turned.read_rows(0, 5).T, store.read_peaks())
    for chosen in ([], [0, 3, 4, 10], list(range(11))):
        positions = np.array(chosen, np.int64)
        np.testing.assert_array_equal(store.read_peaks_of(positions), store.read_peaks()[positions])
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".h5") == ["index.json"]


# Compression

_NEEDS_PLUGIN = pytest.mark.skipif(not importlib.util.find_spec("hdf5plugin"), reason="hdf5plugin is not installed")


@pytest.mark.parametrize("compression", ["gzip", pytest.param("blosc2", marks=_NEEDS_PLUGIN)])
def test_compressed_maps_are_the_same_and_know_the_file_without(tmp_path: Path, compression: Compression) -> None:
    maps = np.maximum(make_maps(9), 0).repeat(20, axis=1)
    keys = [f"{i}.png" for i in range(9)]
    stores = {}
    kinds: tuple[Compression, ...] = ("none", compression)
    for kind in kinds:
        folder = tmp_path / kind
        folder.mkdir()
        for shard, rows in enumerate((slice(0, 5), slice(5, 9))):
            found = {"x.png": "no"}, {"layer": "l", "arch": "a"}, keys[:1]
            write_shard(folder, shard, maps[rows], keys[rows], *found, compression=kind)
        finish_store(folder, ShardGrid(9, 5))
        stores[kind] = ActivationStore(folder)
    plain, packed = stores["none"], stores[compression]
    for shard in range(2):
        one, other = plain.shard_path(shard), packed.shard_path(shard)
        assert other.stat().st_size < 0.8 * one.stat().st_size
        assert read_shard_maps(other).tobytes() == read_shard_maps(one).tobytes()
    assert packed.read_images([8, 2]).tobytes() == maps[[8, 2]].tobytes()
    assert packed.read_provenance() == plain.read_provenance() == {"layer": "l", "arch": "a"}
    for name in ("index.json", "activations.h5"):
        assert (packed.folder / name).read_bytes() == (plain.folder / name).read_bytes()
    with h5py.File(packed.folder / "activations.h5", "r") as file:
        assert file["maps"][:].tobytes() == maps.tobytes()
    digests = {shard_name(s): hashlib.sha256(plain.shard_path(s).read_bytes()).hexdigest() for s in range(2)}
    assert read_plain_digests(packed.folder, 2) == digests
    assert read_plain_digests(plain.folder, 2) == {}
    assert measure_compressed(maps, compression) < 0.8 * maps.nbytes == 0.8 * measure_compressed(maps, "none")


def test_auto_compresses_what_it_makes_half(tmp_path: Path) -> None:
    dense = np.random.default_rng(0).normal(size=(6, 100, 3, 4)).astype(np.float16)
    sparse = np.where(dense > 1, dense, np.float16(0))
    sizes = {}
    for name, maps in (("dense", dense), ("sparse", sparse)):
        for compression in get_args(Compression)[:3]:
            folder = tmp_path / name / compression
            folder.mkdir(parents=True)
            write_shard(folder, 0, maps, list("abcdef"), {}, {}, compression=compression)
            sizes[name, compression] = (folder / shard_name(0)).read_bytes()
            assert read_shard_maps(folder / shard_name(0)).tobytes() == maps.tobytes()
    assert sizes["dense", "auto"] == sizes["dense", "none"]
    assert get_args(Compression)[:3] == ("auto", "none", "gzip")
    assert sizes["sparse", "auto"] == sizes["sparse", "gzip"]
    assert len(sizes["sparse", "gzip"]) < len(sizes["sparse", "none"])
    write_shard(tmp_path, 0, sparse[:0], [], {}, {}, compression="auto")
    assert read_shard_maps(tmp_path / shard_name(0)).shape == sparse[:0].shape


def test_compressed_maps_that_are_damaged_are_noticed(tmp_path: Path) -> None:
    maps = make_maps(3).repeat(20, axis=1)
    write_shard(tmp_path, 0, maps, list("abc"), {}, {}, compression="gzip")
    path = tmp_path / shard_name(0)
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 4, len(data) * 3 // 4, 97):
        data[at] ^= 0x10
    path.write_bytes(bytes(data))
    with pytest.raises(OSError, match=f"{path} is damaged"):
        read_shard_maps(path)


@pytest.mark.skipif(bool(importlib.util.find_spec("hdf5plugin")), reason="hdf5plugin is installed")
def test_without_the_package_one_line_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"extract\.compression: found 'blosc2'.*hdf5plugin.*gzip or none"):
        write_shard(tmp_path, 0, make_maps(1), ["a"], {}, {}, compression="blosc2")
    assert not list(tmp_path.iterdir())


def test_maps_of_an_unknown_filter_are_told_from_damage(tmp_path: Path) -> None:
    """A number that HDF5 has set aside for trying things out, which nobody has registered here."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, *CHW))
    properties.set_filter(300, h5py.h5z.FLAG_OPTIONAL, (1,))
    path = tmp_path / shard_name(0)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((2, *CHW))
        h5py.h5d.create(file.id, b"maps", h5py.h5t.IEEE_F16LE, space, properties)
    with pytest.raises(UserError, match=r"extract\.compression: the maps in .*lavise\[compression\]"):
        read_shard_maps(path)


# No room


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_shard_without_room_leaves_nothing(tmp_path: Path, compression: Compression) -> None:
    write_shard(tmp_path, 0, make_maps(2), ["a", "b"], {}, {}, compression=compression)
    keys = [str(i) for i in range(400)]
    with limit_files(20_000), pytest.raises(OSError, match="File too large"):
        write_shard(tmp_path, 1, make_maps(400), keys, {}, {}, compression=compression)
    assert [p.name for p in tmp_path.iterdir()] == [shard_name(0)]


def test_a_process_whose_disk_is_full_ends_as_it_wants(tmp_path: Path) -> None:
    """HDF5 that writes to a full disk by itself leaves objects open, and the process dies when it ends."""
    code = f"""
import sys
from pathlib import Path
import numpy as np
from lavise.storage.activations import write_shard
from tests.file_limits import limit_files
with limit_files(20_000):
    try:
        keys = [str(i) for i in range(20)]
        write_shard(Path({str(tmp_path)!r}), 0, np.ones((20, 640, 7, 7), np.float16), keys, {{}}, {{}})
    except OSError as err:
        print(err.errno)
sys.exit(5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (5, "27\n", "")
