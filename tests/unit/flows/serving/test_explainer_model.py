"""The explainer in MLflow: saved and loaded for real, with a small network, on features and on boxes in pictures."""

from __future__ import annotations

import base64
import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from lavise.configs.errors import UserError
from lavise.configs.schema import ExtractSettings, ModelSettings, WordSettings
from lavise.flows.serving.explainer_model import save_explainer_model
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import FloatArray
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry
from lavise.storage.images.images import num_decoded
from lavise.storage.models.packed_network import PackedNetwork, keep_weights
from lavise.storage.models.target_model import load_target_model
from lavise.storage.words.word_vectors import Vocabulary, load_word_vectors
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.explainer.network import Explainer, ExplainerFacts, load_explainer, save_explainer, scale_features
from lavise.tasks.explainer.region_requests import shrink_box
from lavise.tasks.inputs.vocabulary import VocabularyInputs, load_vocabulary, make_vocabulary
from lavise.tasks.masks.annotated_shards import AnnotatedShard
from lavise.tasks.masks.region_pooling import pool_regions_of_shard
from tests.unit.tasks.helpers import extract_maps, publish, write_image

CHANNELS, DIMENSIONS, NUM_WORDS = 7, 5, 30
LAYER = "tail"
FITS = ("squash", "center_crop")
# (height, width) of a picture, and boxes in it (left, top, right, bottom); all of them reach into the centre crop.
IMAGES: tuple[tuple[tuple[int, int], tuple[tuple[int, int, int, int], ...]], ...] = (
    ((40, 60), ((0, 0, 60, 40), (12, 5, 33, 38), (29, 20, 31, 21))),
    ((61, 37), ((3, 11, 20, 44), (0, 30, 37, 61))),
    ((48, 48), ((24, 24, 48, 48),)),
)


class Strided(nn.Module):
    """S -> S/8; the map of `tail` is signed."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.tail = nn.Conv2d(8, channels, 2, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.tail(self.stem(images))
        return maps.mean(dim=(2, 3))


@dataclass(frozen=True)
class Made:
    """What a model was saved from, and the model."""

    explainer: Path
    vocabulary: Vocabulary
    network: PackedNetwork
    saved: Path
    model: Any

    def find_words(self, features_RC: FloatArray, num: int) -> tuple[list[list[str]], FloatArray]:
        """Straight from the parts of an audit: all cosines, sorted."""
        explainer, facts = load_explainer(self.explainer, "cpu")
        with torch.inference_mode():
            vectors = explainer(scale_features(torch.from_numpy(features_RC), facts.region_feature)).numpy()
        cosines = vectors @ self.vocabulary.matrix.T
        positions = np.argsort(-cosines, axis=1)[:, :num]
        scores = np.take_along_axis(cosines, positions, axis=1)
        return [[self.vocabulary.words[p] for p in row] for row in positions], scores


def write_explainer(folder: Path, channels: int = CHANNELS, region_feature: str = "raw") -> Path:
    """An explainer whose normalisations are not those of a fresh one."""
    torch.manual_seed(3)
    explainer = Explainer(channels, DIMENSIONS, 0.1)
    with torch.no_grad():
        for norm in (explainer.norm1, explainer.norm2):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.05, 0.2)
    facts = ExplainerFacts(channels, DIMENSIONS, 0.1, region_feature, "cosine", ("cat",), (), {})
    folder.mkdir(parents=True)
    save_explainer(explainer, facts, folder)
    return folder


def write_vocabulary(root: Path) -> tuple[Path, Vocabulary]:
    """The artefact of the vocabulary stage, from a small file of vectors."""
    rng = np.random.default_rng(0)
    words = [f"word{a}{b}" for a in "abcdef" for b in "uvwxy"][: NUM_WORDS - 1]
    lines = [" ".join([w, *(f"{v:.5f}" for v in rng.normal(size=DIMENSIONS))]) for w in ("cat", *words)]
    root.mkdir(parents=True)
    (root / "glove.txt").write_text("\n".join(lines) + "\n", "utf-8")
    settings = WordSettings(vectors=str(root / "glove.txt"), vocabulary_size=NUM_WORDS)
    inputs = VocabularyInputs(settings, ("cat",), Given(lambda: load_word_vectors(settings), "v" * 64))
    handle = publish(root, "vocabulary", lambda folder: make_vocabulary(inputs, folder))
    return handle.folder, load_vocabulary(handle)


def pack(fit: str) -> PackedNetwork:
    preprocessing = {
        "size_px": 32,
        "fit": fit,
        "crop_share": 0.75,
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.3, 0.4),
    }
    settings = ModelSettings.model_validate({"arch": f"{__name__}:Strided", "preprocessing": preprocessing})
    return PackedNetwork(load_target_model(settings, seed=1), None, LAYER)


def load(folder: Path) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(folder), model_config={"device": "cpu"})


@pytest.fixture(scope="module", autouse=True)
def _one_torch_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FITS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp(request.param)
    explainer, (folder, vocabulary) = write_explainer(root / "explainer"), write_vocabulary(root / "words")
    network = pack(request.param)
    save_explainer_model(root / "model", explainer, folder, network)
    return Made(explainer, vocabulary, network, root / "model", load(root / "model"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without its network."""
    root = tmp_path_factory.mktemp("bare")
    save_explainer_model(root / "model", write_explainer(root / "explainer"), write_vocabulary(root / "words")[0], None)
    return root / "model"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    root = tmp_path_factory.mktemp("pictures")
    return tuple(write_image(root / f"{i}.png", *size, seed=i) for i, (size, _) in enumerate(IMAGES))


def random_features(num: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(num, CHANNELS)).astype(np.float32)


def as_frame(features_RC: FloatArray) -> pd.DataFrame:
    return pd.DataFrame({"region_features": [row.tolist() for row in features_RC]})


def box_rows(paths: Sequence[Path]) -> pd.DataFrame:
    rows = [(path.read_bytes(), list(box)) for path, (_, boxes) in zip(paths, IMAGES, strict=True) for box in boxes]
    return pd.DataFrame({"image": [image for image, _ in rows], "box": [box for _, box in rows]})


def pool_like_training(made: Made, paths: Sequence[Path], folder: Path) -> FloatArray:
    """Region features of all boxes, and then of the whole pictures, by extraction and statistics of an audit."""
    records = []
    for path, (_, boxes) in zip(paths, IMAGES, strict=True):
        corners = [(float(x), float(y), float(right - x), float(low - y)) for x, y, right, low in boxes]
        annotations = (*(Annotation("cat", boxes=(c,)) for c in corners), Annotation("whole"))
        records.append(ImageRecord(path.name, path, annotations))
    settings = ExtractSettings(batch_size=2, shard_images=8)
    extract_maps(made.network.model, Dataset("d", tuple(records), ("cat", "whole")), {LAYER: folder}, settings)
    store = ActivationStore(folder)
    shard = AnnotatedShard(store.shard_path(0), tuple(records), ("cat", "whole"), made.network.model.geometry)
    regions = pool_regions_of_shard(shard)
    assert regions.skipped == {}
    return np.concatenate([regions.features[regions.concept == 0], regions.features[regions.concept == 1]])


# ---------------------------------------------------------------- features


def test_words_of_features_are_those_of_the_audit(made: Made) -> None:
    features = random_features(12)
    found = made.model.predict(as_frame(features), params={"num_words": 4})
    words, scores = made.find_words(features, 4)
    assert found["words"].tolist() == words
    np.testing.assert_allclose(np.stack(found["scores"]), scores, atol=1e-6)
    assert (np.diff(np.stack(found["scores"]), axis=1) <= 0).all()
    assert len({tuple(row) for row in words}) > 5


@pytest.mark.parametrize("region_feature", ["l2", "raw"])
def test_features_are_scaled_as_in_training(tmp_path: Path, region_feature: str) -> None:
    explainer = write_explainer(tmp_path / "explainer", region_feature=region_feature)
    save_explainer_model(tmp_path / "model", explainer, write_vocabulary(tmp_path / "words")[0], None)
    model, features = load(tmp_path / "model"), random_features(4)
    one, other = (np.stack(model.predict(as_frame(f))["scores"]) for f in (features, 3 * features))
    assert np.allclose(one, other, atol=1e-6) == (region_feature == "l2")


def test_rows_keep_their_order_and_index(made: Made) -> None:
    frame = as_frame(random_features(6))
    frame.index = [7, 7, "a", 3, 0, -1]
    whole = made.model.predict(frame)
    assert whole.index.tolist() == frame.index.tolist()
    backwards = made.model.predict(frame.iloc[::-1])
    assert backwards["words"].tolist() == whole["words"].tolist()[::-1]


def test_arrays_are_rows_as_well_as_lists(made: Made) -> None:
    features = random_features(3)
    expected = made.model.predict(as_frame(features))["words"].tolist()
    for dtype in (np.float32, np.float64):
        frame = pd.DataFrame({"region_features": list(features.astype(dtype))})
        assert made.model.predict(frame)["words"].tolist() == expected


def test_no_rows_no_words(made: Made) -> None:
    found = made.model.predict(pd.DataFrame({"region_features": []}))
    assert list(found.columns) == ["words", "scores"]
    assert len(found) == 0


def test_number_of_words(made: Made) -> None:
    from mlflow.exceptions import MlflowException

    frame = as_frame(random_features(2))
    assert [len(row) for row in made.model.predict(frame)["words"]] == [10, 10]
    assert [len(row) for row in made.model.predict(frame, params={"num_words": 1})["scores"]] == [1, 1]
    assert [len(row) for row in made.model.predict(frame, params={"num_words": 999})["words"]] == [NUM_WORDS] * 2
    with pytest.raises(ValueError, match=r"^num_words: found 0; allowed: 1 or more$"):
        made.model.predict(frame, params={"num_words": 0})
    with pytest.raises(MlflowException, match="num_words"):
        made.model.predict(frame, params={"num_words": "many"})


# ---------------------------------------------------------------- pictures


def test_boxes_are_pooled_as_in_training(made: Made, pictures: tuple[Path, ...], tmp_path: Path) -> None:
    """The same box, as a mask through the store and the statistics; the explainer does not scale what it is given."""
    frame = box_rows(pictures)
    whole = pd.DataFrame({"image": [p.read_bytes() for p in pictures], "box": [None, float("nan"), pd.NA]})
    expected = made.model.predict(as_frame(pool_like_training(made, pictures, tmp_path)))
    found = made.model.predict(pd.concat([frame, whole], ignore_index=True))
    assert found["words"].tolist() == expected["words"].tolist()
    np.testing.assert_allclose(np.stack(found["scores"]), np.stack(expected["scores"]), atol=1e-5)
    assert len({tuple(row) for row in found["scores"]}) > 5
    without_boxes = made.model.predict(whole[["image"]])
    np.testing.assert_allclose(np.stack(without_boxes["scores"]), np.stack(found["scores"][-3:]), atol=1e-6)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("box", [(1.25, 2.5, 17.75, 9.0), (-4.0, 3.25, 12.5, 100.0), (9.5, 9.5, 9.75, 9.75)])
def test_corners_between_pixels(fit: str, box: tuple[float, float, float, float]) -> None:
    """In quarters of a pixel: the same as the mask of whole pixels in a picture four times as large."""
    geometry, height, width = Geometry(32, fit, 0.75), 20, 30
    left, top, right, bottom = (round(4 * v) for v in box)
    mask = np.zeros((4 * height, 4 * width), dtype=bool)
    mask[max(top, 0) : bottom, max(left, 0) : right] = True
    expected = geometry.shrink_mask(mask, 4, 5)
    assert expected.any()
    np.testing.assert_allclose(shrink_box(box, geometry, (height, width), 4, 5), expected, atol=1e-6)


def test_box_is_in_the_pixels_of_the_upright_picture(made: Made, pictures: tuple[Path, ...], tmp_path: Path) -> None:
    with Image.open(pictures[0]) as picture:
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = tmp_path / "turned.png"
        picture.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    images = [pictures[0].read_bytes(), turned.read_bytes()]
    found = made.model.predict(pd.DataFrame({"image": images, "box": [[12, 5, 33, 38]] * 2}))
    np.testing.assert_allclose(found["scores"][0], found["scores"][1], atol=1e-6)


def test_features_and_pictures_in_one_frame(made: Made, pictures: tuple[Path, ...]) -> None:
    """Rows of both forms in turns, each picture as bytes and as base64 in lines."""
    features, boxes = as_frame(random_features(6)), box_rows(pictures)
    mixed = []
    for i in range(6):
        image = boxes["image"][i]
        mixed.append({"region_features": None, "image": image, "box": boxes["box"][i]})
        mixed.append({"region_features": features["region_features"][i], "image": None, "box": None})
        mixed.append({"region_features": None, "image": base64.encodebytes(image).decode(), "box": boxes["box"][i]})
    found = made.model.predict(pd.DataFrame(mixed))["words"].tolist()
    assert found[1::3] == made.model.predict(features)["words"].tolist()
    assert found[0::3] == found[2::3] == made.model.predict(boxes)["words"].tolist()


def test_each_picture_is_decoded_and_run_once_in_batches(made: Made, tmp_path: Path) -> None:
    images = [write_image(tmp_path / f"{i}.png", 24, 20 + i % 5, seed=i).read_bytes() for i in range(39)]
    rows: list[dict[str, Any]] = [{"image": image, "box": [2, 2, 19 + k, 15]} for k in range(3) for image in images]
    rows += [{"image": base64.b64encode(image).decode(), "box": [1, 1, 19, 15]} for image in images]
    sizes: list[int] = []
    network = made.model._model_impl._network.model.network
    handle = network.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    before = num_decoded()
    try:
        found = made.model.predict(pd.DataFrame(rows))
    finally:
        handle.remove()
    assert num_decoded() - before == 39
    assert sizes == [32, 7]
    alone = made.model.predict(pd.DataFrame([rows[37], rows[3]]))
    np.testing.assert_allclose(
        np.stack(alone["scores"]), np.stack([found["scores"][37], found["scores"][3]]), atol=1e-5
    )


def test_threads_do_not_read_each_others_maps(made: Made, tmp_path: Path) -> None:
    frames = [
        pd.DataFrame({"image": [write_image(tmp_path / f"{i}.png", 30, 30, seed=i).read_bytes()]}) for i in range(24)
    ]
    expected = [made.model.predict(frame)["scores"][0] for frame in frames]
    with ThreadPoolExecutor(8) as pool:
        found = [answer["scores"][0] for answer in pool.map(made.model.predict, frames * 4)]
    np.testing.assert_allclose(found, expected * 4, atol=1e-6)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([60, 0, 70, 10], r"box \[60, 0, 70, 10\] is outside the picture of 60 x 40 pixels; allowed: \[left, top, "),
        ([5, -9, 20, 0], r"box \[5, -9, 20, 0\] is outside the picture of 60 x 40 pixels"),
        ([5, 5, 5, 20], r"box \[5, 5, 5, 20\] is empty; allowed: .* left < right and top < bottom"),
        ([30, 30, 10, 10], r"box \[30, 30, 10, 10\] is empty"),
        ([0, 0, float("nan"), 10], r"box \[0, 0, nan, 10\] is not finite"),
        ([0, 0, float("inf"), 10], r"box \[0, 0, inf, 10\] is not finite"),
        ([0, None, 3, 10], r"box \[0, nan, 3, 10\] is not finite"),
        ([1, 2, 3], r"box has the shape \[3\]; allowed: \[left, top, right, bottom\] in pixels"),
        ([[1, 2, 3, 4]], r"box has the shape \[1, 4\]"),
        ([1, 2, [3], 4], r"box is no list of numbers"),
        ("left", r"box is no list of numbers"),
    ],
)
def test_wrong_box_names_its_row(made: Made, pictures: tuple[Path, ...], box: object, message: str) -> None:
    image = pictures[0].read_bytes()
    frame = pd.DataFrame({"image": [image, image, image], "box": [None, [0, 0, 50, 30], box]})
    with pytest.raises(ValueError, match=rf"^row 2: {message}[^\n]*$"):
        made.model.predict(frame)


@pytest.mark.parametrize("made", ["center_crop"], indirect=True)
def test_box_outside_the_centre_crop(made: Made, pictures: tuple[Path, ...]) -> None:
    """60 x 40: the crop is 30 x 30, from (15, 5) to (45, 35)."""
    image = pictures[0].read_bytes()
    with pytest.raises(
        ValueError,
        match=r"^row 1: box \[0, 0, 15, 40\] is outside the centre crop, .*; allowed: boxes that reach into "
        r"\[15, 5, 45, 35\]$",
    ):
        made.model.predict(pd.DataFrame({"image": [image, image], "box": [[0, 0, 16, 40], [0, 0, 15, 40]]}))


@pytest.mark.parametrize("made", ["squash"], indirect=True)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"found neither region_features nor image; allowed: one of them"),
        ({"image": b"", "region_features": None}, r"found neither region_features nor image"),
        ({"image": b"x", "region_features": [1.0] * CHANNELS}, r"found both region_features and image"),
        ({"box": [0, 0, 1, 1], "region_features": [1.0] * CHANNELS}, r"found a box with region_features"),
        ({"region_features": [1.0] * 3}, r"region_features has the shape \[3\]; allowed: \[7\], one number for each"),
        ({"region_features": []}, r"region_features has the shape \[0\]; allowed: \[7\]"),
        ({"region_features": [1.0] * 6 + [float("inf")]}, r"region_features are not finite"),
        ({"region_features": [1e300] + [1.0] * 6}, r"region_features are not finite"),
        ({"image": b"no picture"}, r"image: not readable: no picture of a known format$"),
        (
            {"image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"},
            r"image: not readable: no picture of a known",
        ),
        ({"image": "*&^"}, r"image is text that is not base64; allowed: bytes of a picture file, or base64$"),
        ({"image": [3]}, r"image is list; allowed: bytes of a picture file, or base64$"),
    ],
)
def test_wrong_row_is_named(made: Made, row: dict[str, Any], message: str) -> None:
    empty = dict.fromkeys(("region_features", "image", "box"))
    right = {**empty, "region_features": [0.5] * CHANNELS}
    with pytest.raises(ValueError, match=rf"^row 1: {message}[^\n]*"):
        made.model.predict(pd.DataFrame([right, {**empty, **row}, right]))


@pytest.mark.parametrize("made", ["squash"], indirect=True)
@pytest.mark.parametrize(
    "given", [random_features(2), pd.DataFrame({"features": [1.0]})], ids=["array", "other column"]
)
def test_input_without_a_known_column(made: Made, given: Any) -> None:
    """MLflow takes the columns of an array for unknown ones and drops them."""
    with pytest.raises(
        ValueError, match=r"^input: found no column that is known; .*DataFrame\(\{'region_features': list"
    ):
        made.model.predict(given)


@pytest.mark.parametrize("made", ["squash"], indirect=True)
@pytest.mark.parametrize("features", ["text", [["a"] * CHANNELS], [1, 2, 3]], ids=["text", "texts", "one number a row"])
def test_signature_is_enforced(made: Made, features: Any) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="Failed to enforce schema"):
        made.model.predict(pd.DataFrame({"region_features": features}, index=range(3 if features == [1, 2, 3] else 1)))


def test_images_need_the_network(bare: Path, pictures: tuple[Path, ...]) -> None:
    model = load(bare)
    assert len(model.predict(as_frame(random_features(3)))) == 3
    with pytest.raises(
        ValueError,
        match=r"^row 0: found an image, but this model was saved without its target network; allowed: region_features$",
    ):
        model.predict(box_rows(pictures))


def test_network_of_another_number_of_filters(tmp_path: Path) -> None:
    explainer = write_explainer(tmp_path / "explainer", channels=CHANNELS + 1)
    with pytest.raises(ValueError, match=rf"^layer tail: found {CHANNELS} filters; allowed: {CHANNELS + 1}"):
        save_explainer_model(tmp_path / "model", explainer, write_vocabulary(tmp_path / "words")[0], pack("squash"))
    assert not (tmp_path / "model").exists()


def test_vocabulary_of_another_dimension(tmp_path: Path) -> None:
    vocabulary, _ = write_vocabulary(tmp_path / "words")
    other = shutil.copytree(vocabulary, tmp_path / "other")
    np.save(other / "matrix.npy", np.load(other / "matrix.npy")[:, :-1])
    with pytest.raises(ValueError, match=r"^vocabulary: found a matrix \(30, 4\) for 30 words and an explainer of 5 "):
        save_explainer_model(tmp_path / "model", write_explainer(tmp_path / "explainer"), other, None)


def test_damaged_network_is_not_loaded(made: Made, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(made.saved, tmp_path / "model")
    (path,) = copy.rglob("network.safetensors")
    tensors = load_file(path)
    tensors["tail.bias"] = tensors["tail.bias"] + 1e-3
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"network\.safetensors: found weights with the digest \w{12}; allowed: \w{12}"):
        load(copy)


# ---------------------------------------------------------------- the folder


def looks_like_a_pickle(data: bytes) -> bool:
    """Binary protocols begin with PROTO; torch's own format and .npz are zips; objects in .npy are a pickle."""
    return data[:1] == b"\x80" or data[:2] == b"PK" or (data[:6] == b"\x93NUMPY" and b"|O" in data[:128])


def test_search_for_pickles_finds_them(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "zip.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({}))
    assert all(looks_like_a_pickle(p.read_bytes()) for p in tmp_path.iterdir())


def test_folder_holds_no_pickle_and_no_code(made: Made) -> None:
    files = {p.relative_to(made.saved).as_posix(): p.read_bytes() for p in made.saved.rglob("*") if p.is_file()}
    assert not [name for name, data in files.items() if looks_like_a_pickle(data)]
    assert not [name for name in files if name.endswith((".py", ".pyc", ".pkl", ".so"))]
    data = {name.rpartition("/")[2] for name in files if name.startswith("data/")}
    expected = "explainer.safetensors explainer.json vocabulary.json matrix.npy network.safetensors network.json"
    assert data == set(expected.split())
    flavors = made.model.metadata.flavors
    assert flavors.keys() == {"python_function"}
    assert flavors["python_function"]["loader_module"] == "lavise.flows.serving.explainer_pyfunc"
    assert flavors["python_function"]["code"] is None
    assert "lavise" in files["requirements.txt"].decode().split()


def test_folder_without_the_network(bare: Path) -> None:
    assert not list(bare.rglob("network.*"))


def test_network_in_the_folder(made: Made) -> None:
    (path,) = made.saved.rglob("network.json")
    content = json.loads(path.read_text("utf-8"))
    preprocessing = made.network.model.describe_preprocessing()
    assert {k: content[k] for k in ("arch", "num_classes", "layer", "preprocessing")} == {
        "arch": f"{__name__}:Strided",
        "num_classes": None,
        "layer": LAYER,
        "preprocessing": preprocessing,
    }


def test_signature(made: Made, bare: Path) -> None:
    for signature in (made.model.metadata.signature, load(bare).metadata.signature):
        assert [(c.name, str(c.type), c.required) for c in signature.inputs] == [
            ("region_features", "Array(double)", False),
            ("image", "DataType.binary", False),
            ("box", "Any", False),
        ]
        assert [(c.name, str(c.type)) for c in signature.outputs] == [
            ("words", "Array(string)"),
            ("scores", "Array(double)"),
        ]
        assert [(p.name, p.default) for p in signature.params] == [("num_words", 10)]


def test_input_example_predicts(made: Made) -> None:
    expected, _ = made.find_words(np.ones((1, CHANNELS), np.float32), 10)
    assert made.model.predict(made.model.input_example)["words"].tolist() == expected


def test_moved_folder_loads(made: Made, tmp_path: Path) -> None:
    frame = as_frame(random_features(2))
    again = load(shutil.copytree(made.saved, tmp_path / "elsewhere"))
    assert again.predict(frame).equals(made.model.predict(frame))


def test_real_architecture(tmp_path: Path, pictures: tuple[Path, ...]) -> None:
    """A library's network with random weights: its own preprocessing and a head of another size."""
    settings = ModelSettings.model_validate(
        {"arch": "squeezenet1_1", "num_classes": 3, "preprocessing": {"size_px": 64}}
    )
    network = PackedNetwork(load_target_model(settings, seed=2), 3, "features.4.squeeze_activation")
    explainer = write_explainer(tmp_path / "explainer", channels=16)
    save_explainer_model(tmp_path / "model", explainer, write_vocabulary(tmp_path / "words")[0], network)
    loaded = load(tmp_path / "model")._model_impl
    assert loaded._network.model.digest == network.model.digest
    assert loaded._network.model.geometry == network.model.geometry
    assert len(loaded.predict(box_rows(pictures))) == 6


def test_network_by_reference_takes_pictures_where_its_weights_are(tmp_path: Path, pictures: tuple[Path, ...]) -> None:
    weights = tmp_path / "epoch9.pt"
    torch.save(Strided().state_dict(), weights)
    settings = ModelSettings.model_validate(
        {"arch": f"{__name__}:Strided", "weights": str(weights), "preprocessing": {"size_px": 32}}
    )
    network = PackedNetwork(load_target_model(settings, seed=0), None, LAYER, keep_weights(settings, seed=0))
    explainer = write_explainer(tmp_path / "explainer")
    vocabulary = write_vocabulary(tmp_path / "words")[0]
    save_explainer_model(tmp_path / "model", explainer, vocabulary, network)
    assert not list((tmp_path / "model").rglob("network.safetensors"))
    assert len(load(tmp_path / "model").predict(box_rows(pictures))) == 6
    weights.unlink()
    elsewhere = load(tmp_path / "model")
    assert len(elsewhere.predict(as_frame(random_features(2)))) == 2
    with pytest.raises(ValueError, match="which this model names and does not hold, cannot be had"):
        elsewhere.predict(box_rows(pictures))
    with pytest.raises(UserError, match=r"epoch9\.pt"):
        save_explainer_model(tmp_path / "another", explainer, vocabulary, network)


# ---------------------------------------------------------------- MLflow's server


@pytest.fixture(scope="module")
def post(made: Made) -> Callable[[dict[str, Any]], Any]:
    """Requests to MLflow's scoring server, in this process."""
    from mlflow.pyfunc import scoring_server
    from starlette.testclient import TestClient

    client = TestClient(scoring_server.init(made.model))
    return lambda body: client.post("/invocations", json=body)


def test_server_takes_base64_and_whole_numbers(
    made: Made, post: Callable[[dict[str, Any]], Any], pictures: tuple[Path, ...]
) -> None:
    """A box may be missing or null; a row of features has "" as its image."""
    image = base64.b64encode(pictures[0].read_bytes()).decode()
    feature = random_features(1)[0].tolist()
    rows = [
        {"image": image, "box": [12, 5, 33, 38], "region_features": None},
        {"image": image, "region_features": None},
        {"image": "", "box": None, "region_features": feature},
    ]
    answer = post({"dataframe_records": rows, "params": {"num_words": 3}})
    assert answer.status_code == 200
    raw = pictures[0].read_bytes()
    frame = pd.DataFrame(
        {
            "image": [raw, raw, None],
            "box": [[12, 5, 33, 38], None, None],
            "region_features": [None, None, feature],
        }
    )
    expected = made.model.predict(frame, params={"num_words": 3})
    assert [row["words"] for row in answer.json()["predictions"]] == expected["words"].tolist()
    np.testing.assert_allclose([row["scores"] for row in answer.json()["predictions"]], np.stack(expected["scores"]))


def test_server_takes_the_example(made: Made, post: Callable[[dict[str, Any]], Any]) -> None:
    answer = post(json.loads((made.saved / "serving_input_example.json").read_text("utf-8")))
    assert answer.status_code == 200
    assert len(answer.json()["predictions"][0]["words"]) == 10


def test_server_says_what_is_wrong(post: Callable[[dict[str, Any]], Any], pictures: tuple[Path, ...]) -> None:
    image = base64.b64encode(pictures[0].read_bytes()).decode()
    answer = post({"dataframe_split": {"columns": ["image", "box"], "data": [[image, [90, 0, 99, 9]]]}})
    assert answer.status_code == 400
    assert "row 0: box [90, 0, 99, 9] is outside the picture of 60 x 40 pixels" in answer.text
