#!/bin/sh
# transformers 5.24.0, torch 2.15.0, numpy 2.4.6, safetensors 0.8.0 (Python 3.11 or later)
#
# Seen: for ViT (as for Swin, BEiT, SegFormer), the tensors in a file of save_pretrained have other names than those in
# the network's own state_dict(). load_state_dict(file, strict=False), as fine-tuning scripts call it where the head is
# another, leaves every tensor of the transformer's layers as it was; it returns the names, and nothing is raised. For
# ResNet the names are the same.
#
# Expected by most: model.safetensors holds state_dict(), and load_state_dict takes it.
#
# Why it matters to whoever audits a network: what was fine-tuned or audited after such a load is a network of random
# layers, behind embeddings that are trained; and a file of torch.save(state_dict()) and one of save_pretrained, of the
# same network, have names that do not go together.
#
# guess before the run: as seen, since loading through lavise had shown it: most tensors of this ViT (32 of 40, counted in a first run).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check transformers==5.24.0 torch==2.15.0 numpy==2.4.6 \
    safetensors==0.8.0 2> pip.log
cat > run.py <<'PY'
import torch
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification


def count(kind, config):
    """Tensors of a network, those that a file has under other names, and those that are not loaded from it."""
    torch.manual_seed(0)
    network = kind(config)
    network.save_pretrained("saved")
    given, own = load_file("saved/model.safetensors"), network.state_dict()
    torch.manual_seed(1)
    other = kind(config)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.add_(1)  # so that none is the same by chance
    missing = other.load_state_dict(given, strict=False).missing_keys
    left = sum(not torch.equal(own[name], tensor) for name, tensor in other.state_dict().items())
    assert all(torch.equal(own[n], t) for n, t in kind.from_pretrained("saved").state_dict().items())
    return len(own), len(missing), left


sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
vit = count(ViTForImageClassification, ViTConfig(image_size=32, patch_size=8, num_labels=3, **sizes))
resnet = count(ResNetForImageClassification, ResNetConfig(hidden_sizes=[16, 32], depths=[1, 1], embedding_size=16))
for name, (number, missing, left) in {"ViT": vit, "ResNet": resnet}.items():
    print(f"{name}: {number} tensors; of a file of save_pretrained {missing} are not found, and {left} not loaded")
raise SystemExit(0 if vit == (40, 32, 32) and resnet[1:] == (0, 0) else "this has changed")
PY
HF_HUB_OFFLINE=1 venv/bin/python run.py 2> run.log || { cat run.log; exit 1; }
