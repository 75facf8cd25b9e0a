"""From decoded pictures through the network.

Only extraction computes in another precision than the network has (`extract.precision`). Whatever asks the network
anything else does not: gradients, ablations and masked pictures are compared with each other, not with kept maps.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lavise.configs.errors import UserError
from lavise.storage.datasets.input_images import InputImage
from lavise.storage.models.target_model import TargetModel

if TYPE_CHECKING:
    import torch


def normalise_images(images_NYXC: InputImage | torch.Tensor, model: TargetModel, device: str) -> torch.Tensor:
    """Pictures -> [N, C, Y, X], (x - mean) / std on the scale 0..1, channels-last, in the network's precision.

    Args:
        images_NYXC: uint8 [N, Y, X, 3], of which grey is made where C is 1; or bands, float32 [N, Y, X, C] on 0..1.
    """
    import torch

    if not isinstance(images_NYXC, torch.Tensor):
        images_NYXC = torch.from_numpy(np.require(images_NYXC, requirements="W"))
    pictures = images_NYXC.to(device, non_blocking=True)
    # NHWC storage viewed as NCHW is channels-last already; nothing is copied.
    images = (_to_grey(pictures) if model.channels == 1 else pictures).permute(0, 3, 1, 2).to(torch.float32)
    mean, std = _place_statistics(model.mean, model.std, device)
    if pictures.dtype == torch.uint8:
        images = images.div_(255)
        return images.sub_(mean).div_(std).to(model.dtype)
    return images.sub(mean).div_(std).to(model.dtype)


@lru_cache(maxsize=4)
def _place_statistics(mean: tuple[float, ...], std: tuple[float, ...], device: str) -> tuple[torch.Tensor, ...]:
    """[1, C, 1, 1] each. Kept, because bringing them to a GPU waits until that has nothing left to do."""
    import torch

    with torch.inference_mode(False):
        return tuple(torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std))


def _to_grey(images_NYX3: torch.Tensor) -> torch.Tensor:
    """uint8 [N, Y, X, 1]: luma after ITU-R BT.601 in whole numbers, as Pillow's mode L; grey stays what it is."""
    import torch

    red, green, blue = images_NYX3.to(torch.int32).unbind(dim=3)
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).unsqueeze(3)


def check_precision(precision: str, device: str) -> None:
    """Refuse what helps nobody.

    Raises:
        UserError: float16 on a processor.
    """
    if precision == "float16" and device == "cpu":
        raise UserError(
            "extract.precision: found 'float16' on a CPU, where it takes several times as long as float32; "
            "allowed here: float32, bfloat16"
        )


def run_network(network: torch.nn.Module, images_NCYX: torch.Tensor, precision: str = "float32") -> None:
    """One forward pass; what is wanted of it is read by an ActivationTap.

    Args:
        precision: of products and convolutions, see `extract.precision`; float32 leaves all as the network has it.
    """
    import torch

    kind = images_NCYX.device.type
    narrowed = nullcontext() if precision == "float32" else torch.autocast(kind, getattr(torch, precision))
    with torch.inference_mode(), narrowed:
        network(images_NCYX)
