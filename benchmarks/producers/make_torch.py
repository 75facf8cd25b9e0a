"""torch itself: whole modules, TorchScript, exported programs, quantised and other state dicts."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torchvision
from torch.ao.quantization import convert, get_default_qconfig, prepare, quantize_dynamic
from torch.distributed.checkpoint.state_dict_saver import save
from torch.nn.utils import prune

from benchmarks.producers.shared import copy_state, make_network, run_script, write_truth


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

    pruned = make_network()
    prune.l1_unstructured(next(m for m in pruned.modules() if isinstance(m, torch.nn.Conv2d)), "weight", 0.5)
    torch.save(pruned.state_dict(), folder / "pruned.pth")
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
