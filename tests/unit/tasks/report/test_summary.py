"""The heading of the report."""

from __future__ import annotations

from dataclasses import replace

from lavise.configs.loading import load_config
from lavise.storage.datasets.base import Dataset
from lavise.tasks.report.summary import describe_audit


def test_how_data_were_read_is_in_the_heading() -> None:
    config = load_config("coco-mini")
    train, evaluation, target = (Dataset(name, (), ("cat",)) for name in ("train", "evaluation", "target"))
    assert "How data were read" not in describe_audit(config, "net", train, evaluation, target)
    noted = replace(train, skipped={"crowd": 1200, "box of size 0": 2}, notes=("1,204 of 3,000 masks are boxes",))
    facts = describe_audit(config, "net", replace(noted, noted=frozenset({"box of size 0"})), evaluation, target)
    assert facts["How data were read"] == "train: 1,204 of 3,000 masks are boxes; 1,200 left out (crowd)"
    facts = describe_audit(config, "net", noted, replace(evaluation, skipped={"no mask": 1}), target)
    assert facts["How data were read"] == (
        "train: 1,204 of 3,000 masks are boxes; 2 left out (box of size 0); 1,200 left out (crowd). "
        "evaluation: 1 left out (no mask)"
    )
