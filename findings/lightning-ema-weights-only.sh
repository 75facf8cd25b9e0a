#!/bin/sh
# lightning 2.6.6, torch 2.15.0, numpy 2.4.6 (Python 3.11 or later)
#
# Seen: with EMAWeightAveraging, ModelCheckpoint writes the average as `state_dict` during training, the raw weights
# beside it as `current_model_state`. With ModelCheckpoint(save_weights_only=True) it writes the raw weights as
# `state_dict`, and the average is nowhere in the file. Nothing is said, and the file has the same keys as one of a
# training without averaging.
#
# Expected by most: save_weights_only leaves out the optimizer and the callbacks, and the weights are the same ones.
#
# Why it matters to whoever audits a network: who trains with an average audits and deploys the raw network, with one
# option that is meant to save disk space, and cannot tell it from the file.
#
# guess before the run: as seen; without the option the file has the average (difference 0), with it the raw weights.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.15.0 numpy==2.4.6 2> pip.log
cat > run.py <<'PY'
import contextlib
import io
import logging
import warnings

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

said = io.StringIO()
logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
logging.getLogger("lightning.pytorch").handlers = [logging.StreamHandler(said)]


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Remember(lightning.Callback):
    """Keeps the weights that were trained."""

    def on_train_batch_end(self, trainer, module, *args):
        self.raw = {key: value.clone() for key, value in module.state_dict().items()}


def train(weights_only):
    """Keys of the file, and how far its state_dict is from the raw weights and from the average."""
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(12, 3, 8, 8), torch.arange(12) % 3)
    average, remember = EMAWeightAveraging(decay=0.9), Remember()
    name = f"weights_only_{weights_only}"
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[remember, average, ModelCheckpoint(".", filename=name, save_weights_only=weights_only)],
    )
    module = Classifier()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stderr(said):
        warnings.simplefilter("always")
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))
    said.writelines(f"{warning.message}\n" for warning in caught)
    content = torch.load(f"{name}.ckpt", weights_only=True)
    # At the end of training the callback puts the average into the module.
    return content, measure(content["state_dict"], remember.raw), measure(content["state_dict"], module.state_dict())


def measure(one, other):
    names = [key for key in one if one[key].is_floating_point()]
    return max((one[key] - other[key]).abs().max().item() for key in names)


whole, whole_raw, whole_average = train(False)
alone, alone_raw, alone_average = train(True)
print(f"whole file: state_dict is {whole_raw:.6f} from the raw weights, {whole_average} from the average")
print(f"save_weights_only: {alone_raw} from the raw weights, {alone_average:.6f} from the average")
print(f"keys of the second: {', '.join(alone)}")
words = [line for line in said.getvalue().splitlines() if "averag" in line.lower() and "weights" in line.lower()]
print(f"lines about averages and weights that were said: {words}")
is_silent = not words and not {"current_model_state", "averaging_state"} & alone.keys()
as_seen = whole_average == 0 < whole_raw and alone_raw == 0 < alone_average and is_silent
raise SystemExit(0 if as_seen else "this has changed")
PY
venv/bin/python run.py
