"""Ultralytics: a small YOLO classifier, trained from its description."""

from __future__ import annotations

from pathlib import Path

from ultralytics import YOLO

from benchmarks.producers.shared import run_script, write_images


def make(folder: Path) -> None:
    """Two epochs: best.pt and last.pt, and the file of an epoch."""
    for part in ("train", "val"):
        write_images(folder / "pictures" / part, 6)
    YOLO("yolov8n-cls.yaml").train(
        data=str(folder / "pictures"),
        epochs=2,
        imgsz=32,
        batch=4,
        workers=0,
        device="cpu",
        project=str(folder),
        name="run",
        exist_ok=True,
        plots=False,
        save_period=1,
        amp=False,
        verbose=False,
        pretrained=False,
    )


if __name__ == "__main__":
    run_script(make)
