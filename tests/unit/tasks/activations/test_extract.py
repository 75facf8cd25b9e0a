"""Extraction: the same bits as plain forward passes, one pass for all layers, resuming, broken pictures."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import torchvision
from PIL import Image
from torch import nn

from lavise.configs.errors import UserError
from lavise.configs.schema import ExtractSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry, Size
from lavise.storage.images.images import num_decoded
from lavise.storage.models.target_model import TargetModel
from lavise.tasks.activations.extract import (
    ExtractionInputs,
    check_broken,
    extract_activations,
    extract_blocks,
    plan_blocks,
)
from lavise.tasks.activations.forward import check_precision, normalise_images
from lavise.tasks.engine.stage_inputs import Given
from tests.unit.tasks.helpers import MEAN, STD, AnyArray, extract_maps, make_model, write_image

SETTINGS = ExtractSettings(batch_size=2, shard_images=4, decode_threads=2, max_broken_share=0.3)
LAYERS = ("stem", "body.1", "tail")


def make_dataset(folder: Path, num: int = 11) -> Dataset:
    """Pictures of different sizes, also grey and transparent ones."""
    records = []
    for i in range(num):
        path = write_image(folder / f"{i:03d}.png", 30 + 3 * i, 50 - 2 * i, seed=i)
        if i % 4 == 3:
            with Image.open(path) as picture:
                converted = picture.convert("L" if i % 8 == 3 else "RGBA")
            converted.save(path)
        records.append(ImageRecord(path.name, path))
    return Dataset("pictures", tuple(records))


def extract(
    model: TargetModel, dataset: Dataset, root: Path, layers: tuple[str, ...] = LAYERS, **changes: Any
) -> dict[str, ActivationStore]:
    folders = {name: root / name for name in layers}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    extract_maps(model, dataset, folders, SETTINGS.model_copy(update=changes))
    return {name: ActivationStore(folder) for name, folder in folders.items()}


def all_maps(store: ActivationStore) -> AnyArray:
    return store.read_images(range(store.shape[0]))


def plain_forward(model: TargetModel, dataset: Dataset, batches: list[list[int]], layer: str) -> AnyArray:
    """One plain forward pass per batch, in the same memory layout."""
    height, width = model.geometry.shape
    parts, kept = [], []
    module = dict(model.network.named_modules())[layer]
    handle = module.register_forward_hook(lambda m, i, out: kept.append(out.clone()))
    network = model.network.to(memory_format=torch.channels_last)
    for batch in batches:
        squares = []
        for i in batch:
            with Image.open(dataset.records[i].file) as picture:
                rgb = picture.convert("RGB")
            squares.append(np.asarray(rgb.resize((width, height), Image.Resampling.BILINEAR), np.float32))
        images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        with torch.inference_mode():
            network((images / 255 - mean) / std)
        parts.append(kept.pop().half().numpy())
    handle.remove()
    return np.concatenate(parts)


BATCHES = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]


@pytest.mark.parametrize("size", [32, (48, 20)], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_maps_equal_plain_forward_passes_to_the_bit(tmp_path: Path, layer: str, size: Size) -> None:
    model, dataset = make_model(size_px=size), make_dataset(tmp_path / "p")
    stores = extract(model, dataset, tmp_path)
    np.testing.assert_array_equal(all_maps(stores[layer]), plain_forward(model, dataset, BATCHES, layer))
    assert stores[layer].keys == [r.key for r in dataset.records]


def test_resnet_with_in_place_activations(tmp_path: Path) -> None:
    """bn1 is read before the in-place ReLU that follows it overwrites it."""
    torch.manual_seed(0)
    model = make_model(torchvision.models.resnet18(weights=None), size_px=64)
    dataset = make_dataset(tmp_path / "p", num=3)
    stores = extract(model, dataset, tmp_path, ("bn1", "layer2.0.bn1", "layer4"))
    for layer in ("bn1", "layer2.0.bn1"):
        expected = plain_forward(model, dataset, [[0, 1], [2]], layer)
        np.testing.assert_array_equal(all_maps(stores[layer]), expected)
        assert (expected < 0).any()
    assert (all_maps(stores["layer4"]) >= 0).all()


def test_several_layers_in_one_pass_equal_single_passes(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p")
    before = num_decoded()
    together = extract(model, dataset, tmp_path / "together")
    assert num_decoded() - before == len(dataset.records)
    for layer in LAYERS:
        alone = extract(model, dataset, tmp_path / "alone", (layer,))[layer]
        np.testing.assert_array_equal(all_maps(together[layer]), all_maps(alone))
        np.testing.assert_array_equal(together[layer].read_peaks(), alone.read_peaks())


def test_extraction_leaves_no_hook(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p", num=3)
    extract(model, dataset, tmp_path)
    assert all(not m._forward_hooks for m in model.network.modules())


@pytest.mark.parametrize("decode_threads", [1, 2, 4])
def test_maps_do_not_depend_on_decoding_threads(tmp_path: Path, decode_threads: int) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p")
    store = extract(model, dataset, tmp_path, ("tail",), decode_threads=decode_threads)["tail"]
    np.testing.assert_array_equal(all_maps(store), plain_forward(model, dataset, BATCHES, "tail"))


IMAGE_BYTES = {"stem": 6 * 16 * 16 * 2, "body.1": 8 * 8 * 8 * 2, "tail": 5 * 8 * 8 * 2}


@pytest.mark.parametrize(
    ("shard_bytes", "counts"),
    [
        (2 * IMAGE_BYTES["stem"], {"stem": [2, 2, 2, 1, 2, 1], "body.1": [4, 3, 3], "tail": [4, 3, 3]}),
        (IMAGE_BYTES["body.1"], {"stem": [1] * 6 + [0] + [1] * 4, "body.1": [1] * 6 + [0] + [1] * 4}),
        (1, {"stem": [1] * 6 + [0] + [1] * 4, "tail": [1] * 6 + [0] + [1] * 4}),
    ],
)
def test_shards_of_fewer_bytes_hold_the_same(tmp_path: Path, shard_bytes: int, counts: dict[str, list[int]]) -> None:
    """Also shards smaller than a batch; a broken picture and a flat one lie in theirs."""
    model, dataset = make_model(), make_dataset(tmp_path / "p")
    dataset.records[6].file.unlink()
    Image.new("RGB", (40, 40), (7, 8, 9)).save(dataset.records[9].file)
    large = extract(model, dataset, tmp_path / "large")
    small = extract(model, dataset, tmp_path / "small", shard_bytes=shard_bytes)
    for layer in LAYERS:
        one, other = large[layer], small[layer]
        assert (one.keys, one.broken, one.shape) == (other.keys, other.broken, other.shape)
        np.testing.assert_array_equal(all_maps(one), all_maps(other))
        np.testing.assert_array_equal(one.read_peaks().view(np.uint16), other.read_peaks().view(np.uint16))
        np.testing.assert_array_equal(one.read_means().view(np.uint32), other.read_means().view(np.uint32))
        assert one.read_provenance() == other.read_provenance()
        indices = [json.loads((store.folder / "index.json").read_text("utf-8")) for store in (one, other)]
        assert indices[0]["flat"] == indices[1]["flat"] == ["009.png"]
        if layer in counts:
            assert indices[1]["shards"] == counts[layer]


def test_a_block_can_be_made_by_itself_elsewhere(tmp_path: Path) -> None:
    """What is left to do is cut in parts that can be sent, and made in any order."""
    model, dataset = make_model(), make_dataset(tmp_path / "p")
    whole = extract(model, dataset, tmp_path / "whole", shard_bytes=2 * IMAGE_BYTES["stem"])
    folders = {name: tmp_path / "parts" / name for name in LAYERS}
    for folder in folders.values():
        folder.mkdir(parents=True)
    settings = SETTINGS.model_copy(update={"shard_bytes": 2 * IMAGE_BYTES["stem"]})
    inputs = ExtractionInputs(model, LAYERS, Given(dataset, "p" * 64), settings, "cpu")
    blocks = plan_blocks(inputs, folders)
    assert [(b.start, len(b.records)) for b in blocks] == [(0, 4), (4, 4), (8, 3)]
    for block in reversed(blocks):
        sent = pickle.loads(pickle.dumps(block))
        assert list(extract_blocks(model, [sent], settings, "cpu")) == [{}]
    assert plan_blocks(inputs, folders) == []
    before = num_decoded()
    extract_activations(inputs, folders)
    assert num_decoded() == before
    for layer in LAYERS:
        assert [p.read_bytes() for p in sorted(folders[layer].iterdir())] == [
            p.read_bytes() for p in sorted(whole[layer].folder.iterdir())
        ]


def test_maps_in_another_precision(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p")
    wide = extract(model, dataset, tmp_path / "wide")
    narrow = extract(model, dataset, tmp_path / "narrow", precision="bfloat16")
    for layer in LAYERS:
        one, other = all_maps(wide[layer]).astype(np.float64), all_maps(narrow[layer]).astype(np.float64)
        as_stored = torch.from_numpy(all_maps(narrow[layer])).to(torch.bfloat16)
        np.testing.assert_array_equal(as_stored.to(torch.float16).numpy(), all_maps(narrow[layer]))
        assert 0 < np.abs(one - other).max() < 0.05 * np.abs(one).max()


def test_half_precision_is_refused_on_a_processor(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p", num=2)
    message = r"^extract\.precision: found 'float16' on a CPU, .*; allowed here: float32, bfloat16$"
    with pytest.raises(UserError, match=message):
        extract(model, dataset, tmp_path, ("tail",), precision="float16")
    check_precision("float16", "cuda")


def test_normalised_pictures_by_hand() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, size=(2, 4, 4, 3)).astype(np.uint8)
    kept = pictures.copy()
    found = normalise_images(pictures, make_model(), "cpu")
    expected = (pictures.astype(np.float64) / 255 - MEAN) / STD
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(pictures, kept)


def make_band_model(channels: int = 5) -> TargetModel:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2)).eval().requires_grad_(False)
    geometry = Geometry((24, 16), "squash", interpolation="bilinear")
    means, deviations = tuple(0.1 * i for i in range(channels)), tuple(0.5 + i for i in range(channels))
    return TargetModel("tests:bands", network, "digest", "code", geometry, means, deviations)


def test_maps_of_bands_equal_plain_forward_passes(tmp_path: Path) -> None:
    """Sixteen bits, at the input's size already; a picture of four bands and one in colours are told of."""
    model, rng, records = make_band_model(), np.random.default_rng(0), []
    bands = rng.integers(0, 65536, size=(6, 24, 16, 5), dtype=np.uint16)
    for i, own in enumerate(bands):
        path = tmp_path / f"{i}.tif"
        tifffile.imwrite(path, own, photometric="minisblack", planarconfig="contig")
        records.append(ImageRecord(path.name, path))
    tifffile.imwrite(tmp_path / "four.tif", bands[0, ..., :4], photometric="minisblack", planarconfig="contig")
    records += [ImageRecord("four.tif", tmp_path / "four.tif")]
    records += [ImageRecord("colours.png", write_image(tmp_path / "colours.png", 24, 16))]
    dataset = Dataset("bands", tuple(records))
    folder = tmp_path / "store"
    folder.mkdir()
    inputs = ExtractionInputs(model, ("0",), Given(dataset, "pictures"), SETTINGS, "cpu")
    assert extract_activations(inputs, {"0": folder})["0"]["num_broken"] == 2
    store = ActivationStore(folder)
    assert store.keys == [f"{i}.tif" for i in range(6)]
    assert store.broken == {
        "four.tif": "found 4 bands; the network takes 5",
        "colours.png": "found a PNG of 3 bands; pictures of other than 1 or 3 bands are read from TIFF alone",
    }
    images = (bands.astype(np.float64) / 65535 - model.mean) / model.std
    with torch.inference_mode():
        expected = model.network(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
    np.testing.assert_allclose(all_maps(store), expected, atol=2e-3)


def test_a_shard_without_a_picture_of_bands_is_empty(tmp_path: Path) -> None:
    """The first four of five pictures cannot be read: their shard has no maps, of the right shape."""
    records = [ImageRecord(f"{i}.tif", tmp_path / f"{i}.tif") for i in range(5)]
    content = np.ones((24, 16, 5), np.float32)
    tifffile.imwrite(records[4].file, content, photometric="minisblack", planarconfig="contig")
    folder = tmp_path / "store"
    folder.mkdir()
    settings = SETTINGS.model_copy(update={"max_broken_share": 0.9})
    extract_maps(make_band_model(), Dataset("bands", tuple(records)), {"0": folder}, settings)
    assert ActivationStore(folder).shape == (1, 4, 11, 7)


# ---------------------------------------------------------------- broken pictures


def test_broken_pictures_are_skipped_and_named(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p")
    whole = dataset.records[2].file.read_bytes()
    dataset.records[2].file.write_bytes(whole[: len(whole) // 2])
    dataset.records[9].file.unlink()
    stores = extract(model, dataset, tmp_path)
    kept = [[0, 1], [3], [4, 5], [6, 7], [8], [10]]
    for layer, store in stores.items():
        np.testing.assert_array_equal(all_maps(store), plain_forward(model, dataset, kept, layer))
        assert store.keys == [dataset.records[i].key for b in kept for i in b]
        assert set(store.broken) == {"002.png", "009.png"}
        assert store.broken["009.png"] == "not found"
        assert store.broken["002.png"].startswith("not readable: ")


def test_shard_of_broken_pictures_only_is_empty(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p")
    for i in range(4, 8):
        dataset.records[i].file.write_text("no picture", "utf-8")
    store = extract(model, dataset, tmp_path, ("tail",), max_broken_share=0.5)["tail"]
    assert store.starts == [0, 4, 4, 7]
    expected = plain_forward(model, dataset, [[0, 1], [2, 3], [8, 9], [10]], "tail")
    np.testing.assert_array_equal(all_maps(store), expected)
    assert store.read_peaks().shape == (7, 5)


def test_too_many_broken_pictures_stop_the_run(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p")
    for i in (0, 3, 7, 8):
        dataset.records[i].file.unlink()
    message = (
        r"data set pictures: 4 of 11 pictures cannot be read \(000.png: not found; .*share of 0\.3 .*max_broken_share"
    )
    with pytest.raises(UserError, match=message):
        extract(model, dataset, tmp_path, ("tail",))
    assert not (tmp_path / "tail" / "index.json").exists()


def test_no_readable_picture_stops_the_run_whatever_is_allowed(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p", num=2)
    for record in dataset.records:
        record.file.unlink()
    with pytest.raises(UserError, match="2 of 2 pictures cannot be read"):
        extract(model, dataset, tmp_path, ("tail",), max_broken_share=1.0)


def test_allowed_share_is_inclusive() -> None:
    broken = {f"{i}.png": "not found" for i in range(3)}
    check_broken(broken, 10, 0.3, "pictures")
    with pytest.raises(UserError, match=r"3 of 10 .* allowed: a share of 0\.29"):
        check_broken(broken, 10, 0.29, "pictures")


def test_activations_beyond_float16_are_named(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p", num=2)
    tail = model.network.get_submodule("tail")
    assert isinstance(tail.bias, torch.Tensor)
    tail.bias[3] = 1e6
    with pytest.raises(UserError, match=r"above 65,504 \(filter 3, a picture of '000.png' to '001.png'\)"):
        extract(model, dataset, tmp_path, ("tail",))
    assert not list(tmp_path.rglob("*.h5"))


def test_description_names_what_the_bits_depend_on() -> None:
    model = make_model()
    base = ExtractionInputs(model, ("stem", "tail"), Given(Dataset("pictures", ()), "p" * 64), SETTINGS, "cpu")

    def changed(**settings: Any) -> ExtractionInputs:
        return replace(base, settings=SETTINGS.model_copy(update=settings))

    others = [
        replace(base, device="cuda"),
        replace(base, pictures=Given(Dataset("others", ()), "q" * 64)),
        replace(base, model=make_model(size_px=64)),
        replace(base, model=replace(model, digest="c" * 64)),
        replace(base, model=replace(model, code="other code")),
        changed(batch_size=4),
        changed(shard_images=8),
        changed(precision="bfloat16"),
    ]
    stem, tail = base.list_requests()
    assert (stem.settings["layer"], tail.settings["layer"]) == ("stem", "tail")
    assert stem.inputs == tail.inputs == {"checkpoint": model.digest, "pictures": "p" * 64}
    assert stem not in [other.list_requests()[0] for other in others]
    for same in (changed(decode_threads=7), changed(max_broken_share=0.5), replace(base, layers=("tail", "stem"))):
        assert stem in same.list_requests()
    assert json.loads(json.dumps(stem.settings)) == stem.settings


def test_shards_are_in_the_description_only_where_bytes_cut_them() -> None:
    """Of each layer by itself: what else is extracted with it does not matter."""
    pictures = Given(Dataset("pictures", tuple(ImageRecord(f"{i}", Path(f"{i}")) for i in range(9))), "p" * 64)
    base = ExtractionInputs(make_model(), ("stem", "tail"), pictures, SETTINGS, "cpu")
    cut = replace(base, settings=SETTINGS.model_copy(update={"shard_bytes": 2 * IMAGE_BYTES["stem"]}))
    (stem, tail), (cut_stem, cut_tail) = base.list_requests(), cut.list_requests()
    assert cut_tail == tail
    assert cut_stem.settings == {**stem.settings, "images_in_shard": 2}
    assert replace(cut, layers=("stem",)).list_requests() == [cut_stem]
    few = replace(pictures, value=replace(pictures.value, records=pictures.value.records[:2]))
    assert replace(cut, pictures=few).list_requests()[0] == replace(base, pictures=few).list_requests()[0]


def test_only_a_gpu_sums_up_by_itself() -> None:
    """So that what was made on processors is not made again."""
    base = ExtractionInputs(make_model(), ("tail",), Given(Dataset("pictures", ()), "p" * 64), SETTINGS, "cpu")
    assert "summaries" not in base.list_requests()[0].settings
    assert replace(base, device="cuda").list_requests()[0].settings["summaries"] == "by the device"


def test_network_of_grey_pictures_gets_what_pillow_calls_grey() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    pictures[1] = pictures[1, :, :, :1]  # a grey one, read as three equal channels
    model = replace(make_model(nn.Sequential(nn.Conv2d(1, 4, 3))), mean=(0.5,), std=(0.25,))
    found = normalise_images(pictures, model, "cpu")
    grey = np.stack([np.asarray(Image.fromarray(p).convert("L")) for p in pictures])
    np.testing.assert_array_equal(grey[1], pictures[1, :, :, 0])
    np.testing.assert_allclose(found.numpy(), ((grey / 255 - 0.5) / 0.25)[:, None], atol=1e-6)
    assert model.select_layers("auto")[0].channels == 4
