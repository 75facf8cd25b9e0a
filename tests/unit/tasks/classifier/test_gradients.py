"""Activation times gradient against autograd written out, finite differences and the weights of a linear head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lavise.storage.models.classifier_head import NO_LOGITS
from lavise.storage.models.layer_survey import find_layer
from lavise.storage.models.layers import Layer
from lavise.tasks.classifier.gradients import Attribution, attribute_classes
from tests.unit.tasks.classifiers import Classifier, load_images, make_classifier, make_records


def attribute(network: nn.Module, layer: str, images: torch.Tensor) -> Attribution:
    found = attribute_classes(network, find_layer(network, layer, images.shape[-1]), images)
    assert isinstance(found, Attribution)
    return found


def make_images(folder: Path) -> tuple[Classifier, torch.Tensor]:
    model, network, _ = make_classifier()
    return network, load_images(model, make_records(folder, 6))


def test_middle_layer_vs_autograd_written_out(tmp_path: Path) -> None:
    """One picture at a time; an in-place ReLU follows the layer."""
    network, images = make_images(tmp_path)
    found = attribute(network, "first", images)
    for i, image in enumerate(images):
        maps = network.first(image[None]).detach().requires_grad_(True)
        logits = network.after_first(maps)[0]
        (gradient,) = torch.autograd.grad(logits[int(logits.argmax())], maps)
        expected = [float((maps[0, u] * gradient[0, u]).sum().detach()) for u in range(6)]
        torch.testing.assert_close(found.contributions[i], torch.tensor(expected), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.logits[i], logits.detach())
        torch.testing.assert_close(found.pooled[i], maps[0].detach().mean(dim=(1, 2)))
    assert found.contributions.std() > 1e-2, "contributions that are all alike show nothing"


def test_middle_layer_vs_finite_differences(tmp_path: Path) -> None:
    """Scaling filter u's map by 1 + e changes the logit by e times its contribution, to first order."""
    network, images = make_images(tmp_path)
    found, step = attribute(network, "first", images[:1]), 1e-5
    network = network.double()
    maps = network.first(images[:1].double())
    best = int(network.after_first(maps)[0].argmax())
    for u in range(6):
        scaled = maps.clone()
        scaled[:, u] *= 1 + step
        slope = (network.after_first(scaled) - network.after_first(maps))[0, best] / step
        assert float(found.contributions[0, u]) == pytest.approx(float(slope), rel=1e-3, abs=1e-4)


def test_layer_before_the_head_has_the_contributions_of_its_weights(tmp_path: Path) -> None:
    network, images = make_images(tmp_path)
    found = attribute(network, "act", images)
    expected = network.head.weight[found.logits.argmax(dim=1)] * found.pooled
    torch.testing.assert_close(found.contributions, expected.detach(), rtol=1e-5, atol=1e-6)
    assert found.contributions.abs().max() > 0.1


def test_network_is_left_as_it_was(tmp_path: Path) -> None:
    network, images = make_images(tmp_path)
    network.head.requires_grad_(True)
    attribute(network, "first", images)
    assert not any(m._forward_hooks for m in network.modules())
    assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == [False] * 4 + [True] * 2


def test_within_inference_mode_and_with_pictures_made_there(tmp_path: Path) -> None:
    network, images = make_images(tmp_path)
    expected = attribute(network, "first", images)
    with torch.inference_mode():
        inside = attribute(network, "first", images.clone())
    torch.testing.assert_close(inside.contributions, expected.contributions)


def test_tensors_kept_from_a_pass_in_inference_mode(tmp_path: Path) -> None:
    """Autograd alone refuses to save these; networks keep masks and position tables in this way."""

    class Keeping(Classifier):
        kept: torch.Tensor | None = None

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.first_act(self.first(images))
            if self.kept is None:
                self.kept = torch.linspace(0.5, 1.5, maps.shape[-1])
            out: torch.Tensor = self.head(self.act(self.second(maps * self.kept)).mean(dim=(2, 3)))
            return out

    torch.manual_seed(0)
    network, images = Keeping().eval().requires_grad_(False), torch.randn(2, 3, 16, 16)
    expected = attribute(network, "first", images)
    network.kept = None
    with torch.inference_mode():
        network(images)
    assert network.kept is not None
    assert network.kept.is_inference()
    torch.testing.assert_close(attribute(network, "first", images).contributions, expected.contributions)


def test_no_classifier() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    assert attribute_classes(network, Layer("0", "Conv2d", 4, 4, 4), torch.zeros(1, 3, 4, 4)) == NO_LOGITS


def test_layer_that_does_not_lead_to_the_logits() -> None:
    class Aside(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.aside = nn.Conv2d(3, 2, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.aside(images)
            return super().forward(images)

    network = Aside().eval().requires_grad_(False)
    expected = "no gradient of the class logits leads to layer aside"
    assert attribute_classes(network, Layer("aside", "Conv2d", 2, 16, 16), torch.randn(1, 3, 16, 16)) == expected
    network.requires_grad_(True)
    assert attribute_classes(network, Layer("aside", "Conv2d", 2, 16, 16), torch.randn(1, 3, 16, 16)) == expected


def test_network_with_one_logit_says_yes_or_no(tmp_path: Path) -> None:
    """Of each picture, the contributions to the answer that it is given: to z/2 for yes, to -z/2 for no."""
    network, images = make_images(tmp_path)
    network.head = nn.Linear(8, 1).requires_grad_(False)
    with torch.inference_mode():
        one = network(images)
        network.head.bias.sub_(one.median())  # some of both
    found = attribute(network, "act", images)
    assert found.logits.shape == (len(images), 2)
    answers = found.logits.argmax(dim=1)
    assert set(answers.tolist()) == {0, 1}
    sign = torch.where(answers == 1, 0.5, -0.5)[:, None]
    torch.testing.assert_close(found.contributions, sign * network.head.weight * found.pooled)
