#!/bin/sh
# lightning 2.6.6, torch 2.15.0, numpy 2.4.6 (Python 3.11 or later)
#
# Seen: StochasticWeightAveraging puts the average into the network at the end of training, and adds an epoch in which
# only its batch statistics are to be computed anew: "only one pass over the train data-loader to compute activation
# statistics", says its source. With a validation loader that is what happens. Without one, the optimizer makes a step
# in that epoch: the network that is left, and that the last checkpoint holds, is neither the average nor the network
# before it.
#
# Expected by most: the last network's parameters are the average's, to the last bit, whether or not there is validation.
#
# Why it matters to whoever audits a network: the checkpoint says that it was made by averaging, and holds an average to
# compare with; what was deployed is another network, by a training step whose size goes with the learning rate.
#
# guess before the run: equal in both cases. This was the guess when the case first came up, as a file of ours that was
# expected to hold the average and did not; here, then, equal with validation and different without.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.15.0 numpy==2.4.6 2> pip.log
cat > run.py <<'PY'
import logging
import warnings

import lightning
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def train(validate):
    """Largest difference of a parameter between the network that is left and the average, and from the file."""
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(12, 3, 8, 8), torch.arange(12) % 3)
    batches = torch.utils.data.DataLoader(data, batch_size=4)
    module, average = Classifier(), StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[average],
    )
    trainer.fit(module, batches, batches if validate else None)
    trainer.save_checkpoint("last.ckpt")
    content = torch.load("last.ckpt", weights_only=True)
    held = content["callbacks"]["StochasticWeightAveraging"]["average_model_state"]
    names = [name for name, _ in module.named_parameters()]
    return max((content["state_dict"][name] - held[name]).abs().max().item() for name in names)


with_validation, without = train(True), train(False)
print(f"last.ckpt, state_dict against average_model_state, parameters: {with_validation} with validation,")
print(f"{without:.6f} without")
raise SystemExit(0 if with_validation == 0 and without > 1e-4 else "this has changed")
PY
venv/bin/python run.py
