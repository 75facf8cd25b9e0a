"""The region features of the paper's methods, against loops over METHOD.md's formulas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from lavise.configs.registry import ATTENTION
from lavise.configs.schema import ExplainSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.input_images import ImageSource
from lavise.storage.images.geometry import Geometry, Size, find_regions
from lavise.storage.models.layers import ActivationTap
from lavise.tasks.activations.attention import (
    AskedImage,
    AttentionMethod,
    describe_unfit_maps,
    find_regions_there,
    look_at_masked_images,
    pool_features,
    pool_maps,
    pool_pairs,
    register_pool,
)
from lavise.tasks.activations.layer_maps import LayerMaps, MaskedForward
from lavise.tasks.activations.top_images import Pairs, select_top_images
from lavise.tasks.engine.computing import Computing
from tests.unit.tasks.activations.feature_maps import THRESHOLDS, make_maps
from tests.unit.tasks.helpers import MEAN, STD, AnyArray, make_model, upsample_with_torch, write_image, write_store

METHODS = ("original", "activation_masking", "filter_attention", "filter_attention_unnormalised")


def feature_by_loops(maps_CHW: AnyArray, unit: int, threshold: float, method: str) -> AnyArray:
    """METHOD, explaining filter u, in float64, one channel and one position at a time."""
    channels, height, width = maps_CHW.shape
    cells = [(y, x) for y in range(height) for x in range(width)]
    maps = maps_CHW.astype(np.float64)
    feature = np.zeros(channels)
    for k in range(channels):
        mean = sum(maps[k, y, x] for y, x in cells) / len(cells)
        dot = sum(maps[k, y, x] * maps[unit, y, x] for y, x in cells)
        length_u = sum(maps[unit, y, x] ** 2 for y, x in cells) ** 0.5
        length_k = sum(maps[k, y, x] ** 2 for y, x in cells) ** 0.5
        if method == "original":
            feature[k] = mean
        elif method == "activation_masking":
            feature[k] = sum(maps[k, y, x] for y, x in cells if maps[unit, y, x] > threshold) / len(cells)
        elif method == "filter_attention":
            cosine = dot / (length_u * length_k) if length_u * length_k > 0 else 0.0
            feature[k] = cosine * mean
        else:
            feature[k] = dot / len(cells) / length_u if length_u > 0 else 0.0
    return feature


@pytest.mark.parametrize("method", METHODS)
def test_pool_maps_vs_loops(method: str) -> None:
    maps = make_maps()[0].astype(np.float32)
    units = np.array([5, 0, 1, 2, 3, 4, 0])
    found = pool_maps(
        torch.from_numpy(maps).flatten(1), torch.from_numpy(units), torch.from_numpy(THRESHOLDS[units]), method
    )
    expected = [feature_by_loops(maps, u, float(THRESHOLDS[u]), method) for u in units]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("method", ["filter_attention", "filter_attention_unnormalised"])
def test_attention_of_a_zero_map_is_zero(method: str) -> None:
    maps = torch.from_numpy(make_maps()[0].astype(np.float32)).flatten(1)
    found = pool_maps(maps, torch.tensor([1]), torch.tensor([-1.0]), method)
    assert not found.any()


def test_zero_maps_have_zero_attention_from_others() -> None:
    maps = torch.from_numpy(make_maps()[0].astype(np.float32)).flatten(1)
    found = pool_maps(maps, torch.tensor([0, 5]), torch.zeros(2), "filter_attention")
    assert not found[:, 1].any()
    assert found[:, [0, 2, 3, 4, 5]].abs().min() > 0


def test_attention_does_not_depend_on_the_filters_own_scale() -> None:
    maps = torch.from_numpy(make_maps()[0].astype(np.float32)).flatten(1)
    scaled = maps.clone()
    scaled[0] *= 1000
    before, after = (pool_maps(m, torch.tensor([0]), torch.zeros(1), "filter_attention") for m in (maps, scaled))
    torch.testing.assert_close(after[0, 1:], before[0, 1:])


def test_the_smallest_halves_are_not_lost_to_rounding() -> None:
    maps = torch.full((2, 4), 2.0**-24)
    found = pool_maps(maps, torch.tensor([0]), torch.zeros(1), "filter_attention")
    torch.testing.assert_close(found, torch.full((1, 2), 2.0**-24))


def test_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match=r"explain\.method: found 'guess'; allowed: 'original', "):
        pool_maps(torch.zeros(2, 4), torch.tensor([0]), torch.zeros(1), "guess")


def collect(
    store: ActivationStore, pairs: Pairs, method: str, thresholds: AnyArray, forward: MaskedForward | None = None
) -> AnyArray:
    """Features in the order of the pairs; each position must come exactly once."""
    found = np.full((len(pairs), store.shape[1]), np.nan)
    for rows, features in pool_pairs(LayerMaps(store, thresholds, forward), pairs, method, Computing()):
        assert np.isnan(found[rows]).all()
        found[rows] = features.numpy()
    return found


@pytest.mark.parametrize("method", METHODS)
def test_pool_pairs_vs_loops(tmp_path: Path, method: str) -> None:
    maps = make_maps(num=19)
    store = write_store(tmp_path, maps, shard_images=5)
    pairs = select_top_images(store, THRESHOLDS, 19)
    found = collect(store, pairs, method, THRESHOLDS)
    expected = [
        feature_by_loops(maps[i], u, float(THRESHOLDS[u]), method)
        for u, i in zip(pairs.filter.tolist(), pairs.image.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert len(set(pairs.image.tolist())) > 16


def test_no_pairs_no_features(tmp_path: Path) -> None:
    store = write_store(tmp_path, make_maps())
    nothing = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert list(pool_pairs(LayerMaps(store, THRESHOLDS), nothing, "original", Computing())) == []


@pytest.mark.parametrize("size", [(64, 64), (80, 48)], ids=str)
def test_image_masking_vs_separate_forward_passes(tmp_path: Path, size: tuple[int, int]) -> None:
    """pool(Feat(x ⊙ R_u)) with a random ResNet-18, one masked picture at a time."""
    torch.manual_seed(0)
    model = make_model(torchvision.models.resnet18(weights=None), size_px=size)
    paths = [write_image(tmp_path / f"{i}.png", 50 + i, 70, seed=i) for i in range(3)]
    inputs = []
    for path in paths:
        with Image.open(path) as picture:
            square = picture.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)
        inputs.append((np.asarray(square, np.float64) / 255 - MEAN) / STD)
    images = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2).float().contiguous()
    with ActivationTap(model.network, (model.find_layer("layer2"),)) as tap, torch.inference_mode():
        model.network(images)
        maps = tap.maps["layer2"].numpy().astype(np.float16)
        store = write_store(tmp_path / "s", maps)
        thresholds = np.quantile(maps.astype(np.float32), 0.9, axis=(0, 2, 3)).astype(np.float32)
        pairs = select_top_images(store, thresholds, 2).take(np.arange(0, 160, 23))
        expected = []
        for u, i in zip(pairs.filter, pairs.image, strict=True):
            region = upsample_with_torch(maps[i, u], size) > thresholds[u]
            assert 0 < region.sum() < region.size
            model.network(images[i : i + 1] * torch.from_numpy(region))
            expected.append(tap.maps["layer2"][0].double().mean(dim=(1, 2)).numpy())
    forward = MaskedForward(model, "layer2", paths, batch_size=2, device="cpu")
    found = collect(store, pairs, "image_masking", thresholds, forward)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert len(pairs) == 7
    plain = collect(store, pairs, "original", thresholds)
    assert np.abs(found - plain).max() > 0.05


def count_batches(
    tmp_path: Path, batch_size: int, per_image: list[int]
) -> tuple[list[tuple[int, ...]], AnyArray, AnyArray]:
    """Shapes that the network gets where pictures have so many filters each, the last batch, and the features."""
    torch.manual_seed(0)
    model = make_model(size_px=16)
    paths = [write_image(tmp_path / f"{i}.png", 20, 20, seed=i) for i in range(len(per_image))]
    maps = np.random.default_rng(0).normal(size=(len(per_image), 5, 4, 4)).astype(np.float16)
    store = write_store(tmp_path / "s", maps)
    filters = np.concatenate([np.arange(n) for n in per_image])
    pairs = Pairs(filters, np.repeat(np.arange(len(per_image)), per_image), np.ones(len(filters), np.float32))
    seen: list[torch.Tensor] = []
    model.find_layer("tail")  # looks for layers with pictures of its own
    hook = model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    forward = MaskedForward(model, "tail", paths, batch_size, device="cpu")
    found = collect(store, pairs, "image_masking", np.zeros(5, np.float32), forward)
    hook.remove()
    return [tuple(batch.shape) for batch in seen], seen[-1].numpy(), found


def test_image_masking_shows_batches_of_one_size(tmp_path: Path) -> None:
    """Whichever pictures they are of; the last one is filled up with zeros."""
    (tmp_path / "a").mkdir()
    shapes, last, found = count_batches(tmp_path / "a", 4, [3, 1, 5, 2, 3])
    assert shapes == [(4, 3, 16, 16)] * 4  # 14 pairs
    assert last[:2].any(axis=(1, 2, 3)).all()
    assert not last[2:].any()
    assert np.isfinite(found).all()
    for size in (1, 3, 64):
        (tmp_path / str(size)).mkdir()
        others, _, again = count_batches(tmp_path / str(size), size, [3, 1, 5, 2, 3])
        assert others == [(size, 3, 16, 16)] * -(-14 // size)
        np.testing.assert_allclose(again, found, rtol=1e-5, atol=1e-6)


def test_image_masking_reads_only_few_pictures_ahead(tmp_path: Path) -> None:
    model = make_model(size_px=16)
    paths = [write_image(tmp_path / f"{i}.png", 20, 20, seed=i) for i in range(30)]
    read: list[int] = []

    def list_asked() -> Iterator[AskedImage]:
        for image in range(30):
            read.append(image)
            yield AskedImage(np.array([image]), np.array([0]), np.ones((5, 4, 4), np.float32), image)

    forward = MaskedForward(model, "tail", paths, batch_size=2, device="cpu")
    rows = []
    for positions, features in look_at_masked_images(list_asked(), np.zeros(5, np.float32), forward):
        rows += positions.tolist()
        assert features.shape == (2, 5)
        assert len(read) - len(rows) <= 5
    assert rows == list(range(30))


@pytest.mark.parametrize("size", [32, (40, 24)], ids=str)
def test_regions_on_a_device_are_those_of_the_geometry(size: Size) -> None:
    rng = np.random.default_rng(0)
    for shape in ((30, 7, 5), (4, 1, 1), (0, 3, 3)):
        maps = rng.normal(size=shape).astype(np.float16).astype(np.float32)
        thresholds = maps[:, 0, 0].copy()  # a cell lies exactly on it
        found = find_regions_there(maps, thresholds, size, "cpu").numpy()
        np.testing.assert_array_equal(found, find_regions(maps, thresholds, size))


def test_image_masking_crops_as_extraction_does(tmp_path: Path) -> None:
    """With the whole map above the threshold nothing is masked, and the feature is that of the plain picture."""
    base = make_model(size_px=32)
    model = type(base)(**{**vars(base), "geometry": Geometry(32, "center_crop", 0.5, "bilinear")})
    path = write_image(tmp_path / "0.png", 40, 90)
    with Image.open(path) as picture:
        square = picture.resize((32, 32), Image.Resampling.BILINEAR, box=(35.0, 10.0, 55.0, 30.0))
    image = torch.from_numpy((np.asarray(square, np.float64) / 255 - MEAN) / STD).permute(2, 0, 1)[None].float()
    with ActivationTap(model.network, (model.find_layer("tail"),)) as tap, torch.inference_mode():
        model.network(image)
        maps = tap.maps["tail"].numpy()
    store = write_store(tmp_path / "s", maps)
    thresholds = np.full(5, -100, np.float32)
    pairs = select_top_images(store, thresholds, 1)
    forward = MaskedForward(model, "tail", [path], batch_size=3, device="cpu")
    found = collect(store, pairs, "image_masking", thresholds, forward)
    np.testing.assert_allclose(found, np.tile(maps[0].mean(axis=(1, 2)), (5, 1)), atol=1e-5)


def test_image_masking_without_a_network_says_so(tmp_path: Path) -> None:
    store = write_store(tmp_path, make_maps())
    pairs = select_top_images(store, THRESHOLDS, 1)
    with pytest.raises(ValueError, match="image masking needs the network"):
        collect(store, pairs, "image_masking", THRESHOLDS)


def test_a_new_method_is_one_registered_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ATTENTION, "_entries", dict(ATTENTION._entries))

    @register_pool("peaks")
    def pool_peaks(maps_CP: torch.Tensor, filters_U: torch.Tensor, thresholds_U: torch.Tensor) -> torch.Tensor:
        return maps_CP.max(dim=1).values.expand(len(filters_U), -1)

    settings = ExplainSettings(method="peaks")
    maps = make_maps(6)
    store = write_store(tmp_path, maps)
    pairs = select_top_images(store, THRESHOLDS, 2)
    found = pool_features(LayerMaps(store, THRESHOLDS), pairs, settings.method, maps.shape[1], Computing())
    expected = maps.astype(np.float16).max(axis=(2, 3)).astype(np.float32)[pairs.image]
    np.testing.assert_array_equal(found, expected)


def test_a_new_method_may_look_at_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ATTENTION, "_entries", dict(ATTENTION._entries))
    seen: list[ImageSource] = []

    def look_at_paths(
        maps_CHW: AnyArray, filters: AnyArray, thresholds_C: AnyArray, picture: ImageSource, forward: MaskedForward
    ) -> torch.Tensor:
        seen.append(picture)
        return torch.from_numpy(maps_CHW[filters].sum(axis=(1, 2))[:, None] * np.ones(len(maps_CHW), np.float32))

    ATTENTION.register("by_path")(AttentionMethod(look=look_at_paths))
    maps = make_maps(6)
    store = write_store(tmp_path, maps)
    pairs = select_top_images(store, THRESHOLDS, 2)
    with pytest.raises(ValueError, match="by path needs the network"):
        collect(store, pairs, "by_path", THRESHOLDS)
    with pytest.raises(ValueError, match="by path needs the network"):
        pool_maps(torch.zeros(2, 4), torch.tensor([0]), torch.zeros(1), "by_path")
    paths = [tmp_path / f"{i}.png" for i in range(len(maps))]
    forward = MaskedForward(None, "layer", paths, batch_size=2, device="cpu")  # type: ignore[arg-type]
    found = collect(store, pairs, "by_path", THRESHOLDS, forward)
    assert set(seen) == {paths[i] for i in pairs.image}
    expected = maps.astype(np.float16).astype(np.float32)[pairs.image, pairs.filter].sum(axis=(1, 2))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("method", ATTENTION.list_names())
def test_filter_attention_is_not_made_for_negative_maps(method: str) -> None:
    said = describe_unfit_maps(method, {"num_signed": 4, "num_filters": 5})
    assert describe_unfit_maps(method, {"num_signed": 0, "num_filters": 5}) == ""
    if method in ("filter_attention", "filter_attention_unnormalised"):
        assert said.startswith(f"negative activations in 4 of 5 filters; {method.replace('_', ' ')} is made for maps")
    else:
        assert said == ""
