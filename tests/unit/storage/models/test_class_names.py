from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lavise.configs.errors import UserError
from lavise.configs.schema import ModelSettings, WordSettings
from lavise.storage.models.class_names import ClassNames, embed_class_names, load_class_names
from lavise.storage.words.word_vectors import WordVectors, load_word_vectors

WORDS = "bull dog hot hotdog terrier blue afghan hound mouse computer nothing".split()
MATRIX = np.random.default_rng(0).normal(size=(len(WORDS), 4)).astype(np.float32)
MATRIX[-1] = 0


def settings(class_names: object, arch: str = "timm:resnet18") -> ModelSettings:
    return ModelSettings.model_validate({"arch": arch, "class_names": class_names})


def unit(vector: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(vector, np.float64) / np.linalg.norm(vector)


def word(name: str) -> npt.NDArray[np.float64]:
    return unit(MATRIX[WORDS.index(name)])


def embed(*classes: Sequence[str]) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    names = tuple(tuple(c) for c in classes)
    return embed_class_names(ClassNames(names, "settings"), WordVectors(WORDS, MATRIX))


# The library's names


@pytest.mark.parametrize("arch", ["timm:resnet18", "torchvision:resnet18", "resnet18", "efficientnet_lite0"])
def test_imagenet_names_in_the_order_of_the_outputs(arch: str) -> None:
    classes = load_class_names(settings("auto", arch), 1000)
    assert classes is not None
    assert (len(classes.names), classes.source) == (1000, "library")
    assert classes.names[0] == ("tench", "Tinca tinca")
    assert classes.names[207] == ("golden retriever",)
    assert classes.names[999][0] == "toilet tissue"
    assert all(name == name.strip() != "" for synonyms in classes.names for name in synonyms)


def test_names_agree_with_those_of_torchvision_weights() -> None:
    """An independent source of the order; torchvision tells some doubles apart by a word in brackets."""
    from torchvision.models import ResNet18_Weights

    classes = load_class_names(settings("auto", "torchvision:resnet18"), 1000)
    assert classes is not None
    theirs = [re.sub(r" \(.*\)", "", c) for c in ResNet18_Weights.DEFAULT.meta["categories"]]
    same = [t in ours for t, ours in zip(theirs, classes.names, strict=True)]
    assert sum(same) > 950


@pytest.mark.parametrize(("num_classes", "first"), [(11821, "benthos"), (21841, "organism"), (21842, "tench")])
def test_larger_heads_of_timm(num_classes: int, first: str) -> None:
    classes = load_class_names(settings("auto"), num_classes)
    assert classes is not None
    assert (len(classes.names), classes.names[0][0]) == (num_classes, first)
    for arch in ("torchvision:resnet18", "resnet18"):
        assert load_class_names(settings("auto", arch), num_classes) is None


@pytest.mark.parametrize(
    ("class_names", "arch", "num_classes"),
    [
        ("auto", "timm:resnet18", 80),
        ("auto", "timm:resnet18", 1001),
        ("auto", "my.module:build", 1000),
        ("none", "timm:resnet18", 1000),
    ],
)
def test_no_names(class_names: str, arch: str, num_classes: int) -> None:
    assert load_class_names(settings(class_names, arch), num_classes) is None


# The user's names


def test_names_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffhot dog,  red   hot ,\r\nHündin\r\n#3\r\n\r\n".encode())
    for arch in ("timm:resnet18", "my.module:build"):
        classes = load_class_names(settings(str(path), arch), 3)
        assert classes == ClassNames((("hot dog", "red hot"), ("Hündin",), ("#3",)), "file")


def test_names_from_the_settings() -> None:
    classes = load_class_names(settings(["cat, house cat", "auto"]), 2)
    assert classes == ClassNames((("cat", "house cat"), ("auto",)), "settings")


def test_another_number_of_names(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"^model\.class_names: found 2 classes in .*classes\.txt; allowed: 3, one for"):
        load_class_names(settings(str(path)), 3)
    with pytest.raises(UserError, match=r"^model\.class_names: found 2 classes in the list; allowed: 1, one for each"):
        load_class_names(settings(["cat", "dog"]), 1)


def test_the_one_name_of_a_network_with_one_logit() -> None:
    with pytest.raises(UserError, match=r"both, no and yes, or, with model\.head: sigmoid, the one$"):
        load_class_names(settings(["pneumonia"]), 2)
    with pytest.raises(UserError, match=r"or set model\.class_names to auto or none$"):
        load_class_names(settings(["pneumonia"]), 3)
    found = load_class_names(settings(["pneumonia"]), 1)
    assert found is not None
    assert found.names == (("pneumonia",),)


@pytest.mark.parametrize("text", ["cat\n\ndog\n", "cat\n , ,\ndog\n"])
def test_class_without_a_name(tmp_path: Path, text: str) -> None:
    """It would shift all that follow, if it were dropped."""
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=r"^model\.class_names: class 2 of .*classes\.txt has no name; allowed: "):
        load_class_names(settings(str(tmp_path / "classes.txt")), 3)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Hündin".encode("latin-1"))
    for name in ("none.txt", "latin.txt", "."):
        with pytest.raises(UserError, match=r"^model\.class_names: cannot read .*; allowed: auto, none, a list of na"):
            load_class_names(settings(str(tmp_path / name)), 3)


# Vectors


def test_mean_of_the_synonyms_that_are_one_token() -> None:
    rows, how = embed(["hot dog", "Terrier", "blue hound", "unknown"])
    assert how == ("synonyms",)
    np.testing.assert_allclose(rows[0], unit(word("hotdog") + word("terrier")), atol=1e-6)


@pytest.mark.parametrize(
    ("synonyms", "how", "tokens"),
    [
        (["blue terrier"], "words", ["blue", "terrier"]),
        (["xyzzy", "blue terrier"], "words", ["blue", "terrier"]),
        (["Kerry blue terrier"], "head", ["blue", "terrier"]),
        (["blue xyzzy terrier", "plugh dog"], "head", ["terrier"]),
        (["xyzzy hot dog"], "head", ["hotdog"]),
        (["Afghan hound", "Afghan"], "words", ["afghan", "hound"]),
        (["mouse", "computer mouse"], "words", ["computer", "mouse"]),
        (["dog", "dog xyzzy"], "abbreviation", ["dog"]),
        (["nothing", "dog"], "synonyms", ["dog"]),
    ],
)
def test_how_a_class_is_found(synonyms: list[str], how: str, tokens: list[str]) -> None:
    rows, found = embed(synonyms)
    assert found == (how,)
    np.testing.assert_allclose(rows[0], unit(np.sum([word(t) for t in tokens], axis=0)), atol=1e-6)


def test_nothing_found_is_a_row_of_zeros() -> None:
    rows, how = embed(["xyzzy"], ["dog"], ["nothing"], ["N/A"])
    assert how == ("missing", "synonyms", "missing", "missing")
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [0, 1, 0, 0], atol=1e-6)


def test_words_that_cancel_out_are_not_a_direction() -> None:
    vectors = WordVectors(["up", "down"], np.array([[1, 0], [-1, 0]], np.float32))
    rows, how = embed_class_names(ClassNames((("up", "down"),), "settings"), vectors)
    assert how == ("words",)  # the primary alone
    np.testing.assert_array_equal(rows, [[1, 0]])


def test_imagenet_with_the_package_vectors() -> None:
    classes = load_class_names(settings("auto"), 1000)
    assert classes is not None
    rows, how = embed_class_names(classes, load_word_vectors(WordSettings()))
    assert rows.shape == (1000, 50)
    assert how.count("missing") < 20
    found = np.array(how) != "missing"
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), found, atol=1e-5)
    position = {names[0]: i for i, names in enumerate(classes.names)}
    dog, cat, truck = (rows[position[n]] for n in ("golden retriever", "Persian cat", "fire engine"))
    assert dog @ cat > dog @ truck
