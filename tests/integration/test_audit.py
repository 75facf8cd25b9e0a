"""The main job through the command line: a real network, real files, MLflow on SQLite."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from safetensors.torch import load_file

from lavise.configs.loading import load_config
from tests.integration.tiny import Finished, make_arguments, run_here, run_lavise, run_tiny

pytestmark = pytest.mark.slow

RUN_FILES = {
    "explanations.parquet",
    "filters.parquet",
    "metrics.json",
    "explainer.safetensors",
    "explainer.json",
    "config.yaml",
    "environment.json",
    "report.html",
    "stages.json",
    "skipped.json",
    "artefacts.json",
    "inputs.json",
    "overview.png",
    "calibration.json",
    "reliability.png",
    "panel.json",
    "figures",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home: Path) -> Finished:
    """In a process of its own."""
    arguments = make_arguments(tracking__pack_network="true")
    done = run_lavise(home, "run", "demo", "--json", *arguments)
    assert done.code == 0, done.stderr
    return done


def test_leaves_the_run_folder_that_others_rely_on(first: Finished) -> None:
    folder = Path(first.result["run_dir"])
    assert {p.name for p in folder.iterdir()} == RUN_FILES
    filters = parquet.read_table(folder / "filters.parquet").to_pylist()
    assert [f["filter"] for f in filters] == list(range(1280))
    assert {f["layer"] for f in filters} == {"bn2"}
    words = parquet.read_table(folder / "explanations.parquet").to_pylist()
    assert {"layer", "filter", "rank", "word", "score", "votes", "novel"} <= set(words[0])
    by_filter = {(w["filter"], w["rank"]): w["word"] for w in words}
    assert all(by_filter[f["filter"], 1] == f["words"][0] for f in filters if f["words"])
    assert all(bool(f["words"]) == f["explained"] == (not f["reason"]) for f in filters)
    assert any(name.startswith("bn2::") for name in load_file(folder / "explainer.safetensors"))
    assert load_config(folder / "config.yaml").explain.top_images == 10


def test_json_says_what_ran(first: Finished) -> None:
    result = first.result
    assert result.keys() >= {"run_id", "tracking_uri", "run_dir", "metrics", "stages", "images_decoded"}
    assert (result["predecessor"], result["gate"]) == (None, None)
    assert all(set(s) == {"digest", "cached", "seconds"} for s in result["stages"].values())
    assert not any(s["cached"] for s in result["stages"].values())
    recall = result["metrics"]["bn2/closed/filter_attention/recall_at_5"]
    assert recall > result["metrics"]["bn2/closed/random_words/recall_at_5"]


def test_recall_intervals_hold_their_value(first: Finished) -> None:
    measured = json.loads((Path(first.result["run_dir"]) / "metrics.json").read_text("utf-8"))
    cells = [
        cell
        for methods in measured["layers"]["bn2"]["recall"].values()
        for by_s in methods.values()
        for cell in by_s.values()
    ]
    assert len(cells) == 2 * 5 * 3
    assert all(c["low"] <= c["value"] + 1e-9 and c["value"] <= c["high"] + 1e-9 for c in cells)


def test_is_in_mlflow_with_a_child_per_stage(first: Finished) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(first.result["tracking_uri"])
    run = client.get_run(first.result["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.objective"] == "softmax"
    assert run.data.tags["lavise.checkpoint"]
    assert run.inputs is not None
    assert {d.dataset.name for d in run.inputs.dataset_inputs} == {
        "openmoji/train",
        "openmoji/evaluation",
        "openmoji/target",
    }
    logged = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert logged >= RUN_FILES | {"tables"}
    figures = {a.path for a in client.list_artifacts(run.info.run_id, "figures")}
    assert figures == {"figures/bn2-recall.png", "figures/bn2-panel.png"}
    tables = {a.path for a in client.list_artifacts(run.info.run_id, "tables")}
    assert tables == {"tables/filters.json", "tables/explanations.json"}
    query = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    children = client.search_runs([run.info.experiment_id], query)
    assert {c.info.run_name for c in children} == set(first.result["stages"])


def test_logged_explainer_takes_features_or_pictures_with_boxes_and_says_words(home: Path, first: Finished) -> None:
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.tracking import MlflowClient

    mlflow.set_tracking_uri(first.result["tracking_uri"])
    uri = f"runs:/{first.result['run_id']}/explainer"
    model = mlflow.pyfunc.load_model(uri)
    assert [c.name for c in model.metadata.signature.inputs.inputs] == ["region_features", "image", "box"]
    assert model.metadata.load_input_example(mlflow.artifacts.download_artifacts(uri)) is not None
    outputs = MlflowClient(first.result["tracking_uri"]).get_run(first.result["run_id"]).outputs
    assert outputs is not None
    (logged,) = outputs.model_outputs
    files = {p.suffix for p in Path(mlflow.artifacts.download_artifacts(f"models:/{logged.model_id}")).rglob("*")}
    assert ".pkl" not in files
    features = pd.DataFrame({"region_features": [[0.5] * 1280, [0.1, 0.9] * 640]})
    known = set(model.predict(features, params={"num_words": 3}).iloc[0]["words"])
    assert len(known) == 3
    scene = sorted((home / "artefacts" / "scenes").glob("*/target/*.png"))[0]
    pictures = pd.DataFrame({"image": [scene.read_bytes()] * 2, "box": [None, [10, 10, 120, 120]]})
    found = model.predict(pictures)
    assert [len(w) for w in found["words"]] == [10, 10]
    assert found["scores"][0] != found["scores"][1]


def test_again_is_all_cached_and_decodes_nothing(home: Path, first: Finished) -> None:
    again = run_tiny(home).result
    assert all(s["cached"] for s in again["stages"].values())
    assert again["images_decoded"] == 0
    assert again["metrics"] == first.result["metrics"]


def test_other_top_images_runs_explain_and_what_follows(home: Path, first: Finished) -> None:
    assert first.code == 0
    changed = run_tiny(home, explain__top_images=7).result
    ran = {name for name, s in changed["stages"].items() if not s["cached"]}
    assert ran == {"precision bn2", "explain bn2", "evaluate bn2", "panel bn2", "report"}


def test_number_of_workers_and_threads_changes_no_bit(home: Path, first: Finished, tmp_path: Path) -> None:
    other = run_tiny(tmp_path, statistics__num_workers=1, extract__decode_threads=1, extract__scheduler="local").result
    assert {n: s["digest"] for n, s in other["stages"].items()} == {
        n: s["digest"] for n, s in first.result["stages"].items()
    }
    from tests.integration.tiny import digest_artefacts

    ours, theirs = digest_artefacts(home), digest_artefacts(tmp_path)
    assert theirs
    assert {k: ours[k] for k in theirs} == theirs


def test_baselines_explain_next_to_nothing(home: Path, first: Finished) -> None:
    """Labels and class names dealt out at random; a network with random weights, on fewer pictures."""
    assert first.code == 0
    baselines = "[random_words,dealt_words,most_frequent_words,shuffled_labels,random_network]"
    result = run_tiny(home, evaluate__baselines=baselines, evaluate__baseline_images=16).result
    rows = json.loads((Path(result["run_dir"]) / "panel.json").read_text("utf-8"))["rows"]
    assert set(rows) >= {"explained", "all_filters", "shuffled_labels", "random_network"}
    assert rows["shuffled_labels"]["share_explained"] <= 0.05
    assert rows["random_network"]["share_explained"] <= 0.05
    assert {"shuffled labels: explain bn2", "random network: explain bn2"} <= set(result["stages"])
    assert result["stages"]["explain bn2"]["cached"]


def test_two_layers_in_one_audit(home: Path, first: Finished) -> None:
    assert first.code == 0
    more = {"classes__enabled": "true", "causes__enabled": "true", "causes__max_passes": 3, "causes__max_images": 8}
    done = run_tiny(home, model__layers="[bn2,blocks.5]", train__max_epochs=2, transfer__method="renormalise", **more)
    result = done.result
    assert result["stages"]["extract train"]["cached"] is False
    assert result["metrics"]["blocks.5/num_filters"] == 192
    assert result["metrics"]["bn2/num_filters"] == 1280
    filters = parquet.read_table(Path(result["run_dir"]) / "filters.parquet").to_pylist()
    assert len(filters) == 1280 + 192
    assert "transfer target blocks.5" in result["stages"]
    _check_classes_and_causes(Path(result["run_dir"]))


def _check_classes_and_causes(folder: Path) -> None:
    """The last layer feeds the classifier, the other one does not."""
    leans = parquet.read_table(folder / "classes.parquet").to_pylist()
    assert {r["layer"] for r in leans} == {"bn2", "blocks.5"}
    assert {r["weight"] is None for r in leans if r["layer"] == "bn2"} == {False}
    assert {r["weight"] is None for r in leans if r["layer"] == "blocks.5"} == {True}
    facts = {n: json.loads((folder / "layers" / n / "classes.json").read_text("utf-8")) for n in ("bn2", "blocks.5")}
    assert facts["bn2"]["max_abs_difference"] < 1e-5 * facts["bn2"]["max_abs_contribution"] + 1e-5
    assert facts["blocks.5"]["max_abs_difference"] is None
    assert (folder / "layers" / "blocks.5" / "causes.json").is_file()
    assert (folder / "causes.parquet").is_file()


def test_groups_are_compared_on_what_is_there(home: Path, first: Finished) -> None:
    assert first.code == 0
    predicate = "annotations:cat or dog or fox or pig or cow or horse"
    options = ["--groups", predicate, "--images", "train", "--json", *make_arguments(bias__min_images=2)]
    done = run_here(home, "bias", "demo", *options)
    assert done.code == 0, done.stderr
    ran = {name for name, s in done.result["stages"].items() if not s["cached"]}
    assert ran == {"thresholds train bn2", "bias bn2", "report"}
    folder = Path(done.result["run_dir"])
    rows = parquet.read_table(folder / "bias_filters.parquet").to_pylist()
    assert {r["filter"] for r in rows} == set(range(1280))
    assert {(r["group"], r["other"]) for r in rows} == {(predicate.split(":")[1], f"not ({predicate.split(':')[1]})")}
    assert {r["num_group"] + r["num_other"] for r in rows} == {48}
    facts = json.loads((folder / "bias.json").read_text("utf-8"))
    assert facts["images"] == "train"
    assert done.result["metrics"]["bn2/bias/num_found"] == sum(r["found"] for r in rows)
    assert "groups differ in" in done.stdout
    assert (folder / "figures" / "bn2-bias.png").is_file()
