"""torch itself: whole modules, TorchScript, exported programs, quantised and other state dicts."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torchvision
from torch.ao.quantization import convert, get_default_qconfig, prepare, quantize_dynamic
from torch.distributed.checkpoint.state_dict_saver import save
from torch.nn.utils import parametrizations, parametrize, prune

from benchmarks.producers.shared import copy_state, make_network, make_optimizer, run_script, train, write_truth


def make_parts(folder: Path) -> None:
    """Files with weights in parts, after a step of training; whole, as they are in evaluation, they are the truth."""
    for name, apply in {
        "pruned": lambda module: prune.l1_unstructured(module, "weight", 0.5),
        "weight_norm": parametrizations.weight_norm,
        "old_weight_norm": torch.nn.utils.weight_norm,
        "spectral_norm": parametrizations.spectral_norm,
        "old_spectral_norm": torch.nn.utils.spectral_norm,
        "orthogonal": parametrizations.orthogonal,
    }.items():
        network = make_network()
        convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
        for module in convolutions:
            apply(module)
        train(network, make_optimizer(network))
        torch.save(network.state_dict(), folder / f"{name}.pth")
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, 32, 32))
        remove = {
            "pruned": prune.remove,
            "old_weight_norm": torch.nn.utils.remove_weight_norm,
            "old_spectral_norm": torch.nn.utils.remove_spectral_norm,
        }.get(name, parametrize.remove_parametrizations)
        for module in convolutions:
            remove(module, "weight")
        write_truth(folder, f"weights in evaluation, {name}", copy_state(network))


def make(folder: Path) -> None:
    """A file of each kind."""
    network = make_network().eval()
    state, picture = network.state_dict(), torch.zeros(1, 3, 32, 32)
    write_truth(folder, "raw weights", copy_state(network))
    torch.save(state, folder / "state.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(state, folder / "protocol4.pth", pickle_protocol=4)
    (folder / "pickled.pkl").write_bytes(pickle.dumps(state))
    torch.save(make_network().to("meta").state_dict(), folder / "meta.pth")
    torch.save(network, folder / "whole.pt")
    torch.save(torch.optim.swa_utils.AveragedModel(network), folder / "whole_average.pt")
    torch.save({"model": network, "epoch": 1}, folder / "whole_in_dict.pt")
    torch.jit.script(network).save(folder / "scripted.pt")
    torch.jit.trace(network, picture).save(folder / "traced.pt")
    torch.export.save(torch.export.export(network, (picture,)), folder / "exported.pt2")
    save({"model": state}, checkpoint_id=folder / "distributed")

    location = torch.serialization.location_tag
    torch.serialization.location_tag = lambda storage: "cuda:0"  # there need not be one
    torch.save(state, folder / "cuda.pth")
    torch.serialization.location_tag = location
    make_parts(folder)
    torch.save(quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8).state_dict(), folder / "dynamic.pth")
    engine = torch.backends.quantized.engine = "fbgemm"
    static = torchvision.models.quantization.shufflenet_v2_x0_5(num_classes=3, quantize=False).eval()
    static.fuse_model(is_qat=False)
    static.qconfig = get_default_qconfig(engine)
    prepare(static, inplace=True)
    static(torch.randn(4, 3, 32, 32))
    torch.save(convert(static).state_dict(), folder / "static.pth")


if __name__ == "__main__":
    run_script(make)
