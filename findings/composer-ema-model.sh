#!/bin/sh
# mosaicml (composer) 0.32.1, torch 2.15.0, torchvision 0.29.2, numpy 2.4.6 (Python 3.11 or later)
#
# It asks for torch before 2.7.1 and is installed without its dependencies, which are named below: with these versions,
# the newest of each, it runs.
#
# Seen: in a checkpoint of a training with EMA, the entry called `ema_model` holds the raw weights, and `state.model`
# holds the average. A flag beside it, `ema_weights_active`, says that the two have changed places.
#
# Expected by most: `ema_model` is the average, as its name says.
#
# Why it matters to whoever audits a network: who looks for the average by its name audits the raw network, and reports
# on one that is not in use.
#
# guess before the run: as seen, in the file of every epoch.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
pip="venv/bin/python -m pip install --quiet --disable-pip-version-check"
$pip torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 torchmetrics==1.9.0 torch-optimizer==0.3.0 tabulate==0.10.0 \
    py-cpuinfo==9.0.0 mosaicml-cli==0.8.3 packaging psutil pyyaml requests tqdm \
    importlib-metadata coolname pillow 2> pip.log
$pip --no-deps mosaicml==0.32.1 2>> pip.log
cat > run.py <<'PY'
import logging
import warnings

import torch
from composer import Callback, Trainer
from composer.algorithms import EMA
from composer.models import ComposerClassifier

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
raw = {}


class Remember(Callback):
    """Keeps both after every step; the algorithm has them in their own places then."""

    def batch_end(self, state, logger):
        epoch = int(state.timestamp.epoch) + 1
        raw[epoch] = {key: value.clone() for key, value in state.model.state_dict().items()}


torch.manual_seed(0)
nn = torch.nn
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
model = ComposerClassifier(net, num_classes=3)
data = torch.utils.data.TensorDataset(torch.randn(12, 3, 8, 8), torch.arange(12) % 3)
Trainer(
    model=model,
    train_dataloader=torch.utils.data.DataLoader(data, batch_size=4),
    max_duration="2ep",
    optimizers=torch.optim.SGD(model.parameters(), lr=0.05),
    algorithms=[EMA(half_life="2ba", update_interval="1ba")],
    callbacks=[Remember()],
    save_folder="files",
    save_interval="1ep",
    device="cpu",
    progress_bar=False,
    run_name="demo",
).fit()


def measure(one, other, names):
    return max((one[name] - other[name]).abs().max().item() for name in names)


names = [name for name, _ in model.named_parameters()]
as_seen = True
for epoch in (1, 2):
    state = torch.load(f"files/ep{epoch}-ba{3 * epoch}-rank0.pt", weights_only=False)["state"]
    facts = dict(state["algorithms"])["EMA"]
    called_average = facts["ema_model"]["named_parameters_dict"]
    distance, network = measure(called_average, raw[epoch], names), measure(state["model"], raw[epoch], names)
    print(f"epoch {epoch}: ema_model is {distance} from the raw weights, state.model {network:.6f};", end=" ")
    print(f"ema_weights_active {facts['ema_weights_active']}")
    as_seen = as_seen and distance == 0 < network and facts["ema_weights_active"] is True
raise SystemExit(0 if as_seen else "this has changed")
PY
venv/bin/python run.py
