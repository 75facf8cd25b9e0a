"""A whole audit beside the work of CLIP-Dissect (Oikarinen and Weng, ICLR 2023) on the same pictures and as many words.

    python -m pip install --no-deps --target LIBRARY open_clip_torch ftfy
    PYTHONPATH=LIBRARY python -m benchmarks.clip_dissect --root COCO --photos FOLDER [--words 20000] [--sample 16]

CLIP-Dissect shows every picture of the probing set to CLIP's picture encoder and every word to its text encoder, once;
what it does with the numbers is cheap beside that and not counted, nor is the audited network's own pass. Encoders have
random weights here, which take as long as trained ones; a sample of pictures and words is timed, and multiplied. The
audit is `lavise run coco-mini` with an empty state folder, all stages, its reference included; `without_reference` is
the same with other pictures asked about before, so that the reference is known. open_clip has the encoders; it is no
part of lavise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import save_result

NETWORK = "ViT-B-16"
_PICTURE_BATCH, _WORD_BATCH = 8, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="COCO folder: train2017, val2017, annotations")
    parser.add_argument("--photos", type=Path, required=True, help="folder of pictures to explain filters on")
    parser.add_argument("--words", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=16, help="pictures that are timed, and four times as many words")
    arguments = parser.parse_args()
    num_images = sum(1 for path in arguments.photos.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    clip = _time_clip(arguments.sample)
    clip_s = num_images * clip["picture_s"] + arguments.words * clip["word_s"]
    with tempfile.TemporaryDirectory() as home:
        whole = _time_audit(home, arguments.root, arguments.photos)
        again = _time_audit(home, arguments.root, arguments.root / "val2017")
        num_again = sum(1 for _ in (arguments.root / "val2017").iterdir())
    save_result(
        "clip_dissect",
        {
            "num_images": num_images,
            "num_words": arguments.words,
            "clip": {**clip, "whole_s": clip_s},
            "audit_s": whole,
            "without_reference": {"audit_s": again, "num_images": num_again},
            "ratio": clip_s / whole,
        },
    )


def _time_clip(sample: int) -> dict[str, Any]:
    """Seconds for a picture and for a word."""
    import open_clip

    model = open_clip.create_model(NETWORK, pretrained=None).eval()
    tokenizer = open_clip.get_tokenizer(NETWORK)
    pictures = torch.zeros(_PICTURE_BATCH, 3, 224, 224)
    words = tokenizer([f"word {n}" for n in range(_WORD_BATCH)])
    with torch.inference_mode():
        picture_s = _time(lambda: model.encode_image(pictures), max(sample // _PICTURE_BATCH, 1)) / _PICTURE_BATCH
        word_s = _time(lambda: model.encode_text(words), max(4 * sample // _WORD_BATCH, 1)) / _WORD_BATCH
    return {"network": NETWORK, "open_clip": open_clip.__version__, "picture_s": picture_s, "word_s": word_s}


def _time(work: Callable[[], Any], times: int) -> float:
    work()
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


def _time_audit(home: str, root: Path, photos: Path) -> float:
    command = (
        *(sys.executable, "-m", "lavise", "run", "coco-mini", "--set", f"reference.root={root}"),
        *("--set", f"target.root={photos}", "--set", "tracking.enabled=false"),
    )
    start = time.perf_counter()
    subprocess.run(command, env={**os.environ, "LAVISE_HOME": home}, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
