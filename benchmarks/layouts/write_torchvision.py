"""torchvision: folders per class, which its ImageFolder reads."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import ImageFolder

from benchmarks.layouts.shared import make_label, run_script, write_images, write_truth


def write(folder: Path) -> None:
    """A picture goes into the folder of its first object."""
    drawn = folder / "drawn"
    for name, shapes in write_images(drawn).items():
        target = folder / "folders" / shapes[0].category / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (drawn / name).rename(target)
    read = ImageFolder(str(folder / "folders"))
    labels = [make_label(Path(path).name, read.classes[index], None) for path, index in read.samples]
    write_truth(folder / "folders", [label["image"] for label in labels], labels)


if __name__ == "__main__":
    run_script(write)
