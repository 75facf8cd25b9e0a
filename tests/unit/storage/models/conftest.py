"""A network with the weights of its package."""

from __future__ import annotations

import pytest

from lavise.storage.models.target_model import TargetModel
from tests.unit.storage.models.helpers import PACKAGE, load


@pytest.fixture(scope="module")
def lite0() -> TargetModel:
    return load({"arch": "timm:tf_efficientnet_lite0", "weights": PACKAGE})
