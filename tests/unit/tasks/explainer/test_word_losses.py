"""Losses over a wide vocabulary: to the bit as torch's own, or in blocks to rounding; against float64 too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from lavise.tasks.explainer.word_losses import Workspace, find_word_losses, find_word_losses_in_blocks

Find = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def find_by_torch(scaled_RE: torch.Tensor, vocabulary_VE: torch.Tensor, word_R: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(scaled_RE @ vocabulary_VE.T, word_R, reduction="none")


def draw(num: int, words: int, seed: int = 0, kind: type = np.float32) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    output, vocabulary = (torch.from_numpy(rng.normal(size=(n, 50)).astype(kind)) for n in (num, words))
    word, weight = rng.integers(0, words, size=num), torch.from_numpy(rng.uniform(0.1, 1, size=num).astype(kind))
    return functional.normalize(output, dim=1), functional.normalize(vocabulary, dim=1), torch.from_numpy(word), weight


def differentiate(find: Find, drawn: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses, and the gradient of their weighted mean."""
    output, vocabulary, word, weight = drawn
    output = output.clone().requires_grad_()
    losses = find(output / 0.05, vocabulary, word)
    ((losses * weight).sum() / weight.sum()).backward()
    assert output.grad is not None
    return losses.detach(), output.grad


def test_losses_and_gradients_are_torchs_own_to_the_bit() -> None:
    """With memory that held other matrices before, smaller and larger ones."""
    workspace = Workspace()
    for seed, num in enumerate((7, 110, 1, 33, 110, 64)):
        drawn = draw(num, 3001, seed)
        found = differentiate(lambda o, v, w: find_word_losses(o, v, w, workspace), drawn)
        expected = differentiate(find_by_torch, drawn)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        with torch.inference_mode():
            again = find_word_losses(drawn[0] / 0.05, drawn[1], drawn[2], workspace)
        assert torch.equal(again, expected[0])


def test_two_losses_at_once_do_not_share_memory() -> None:
    workspace, drawn, other = Workspace(), draw(9, 500, 1), draw(8, 500, 2)
    outputs = [d[0].clone().requires_grad_() for d in (drawn, other)]
    first, second = (
        find_word_losses(o / 0.05, d[1], d[2], workspace) for o, d in zip(outputs, (drawn, other), strict=True)
    )
    (first.sum() + second.sum()).backward()
    for output, own in zip(outputs, (drawn, other), strict=True):
        expected = own[0].clone().requires_grad_()
        find_by_torch(expected / 0.05, own[1], own[2]).sum().backward()
        assert output.grad is not None
        assert expected.grad is not None
        assert torch.equal(output.grad, expected.grad)


@pytest.mark.parametrize("find", [find_word_losses, find_word_losses_in_blocks])
def test_memory_made_in_inference_mode_serves_training(find: Callable[..., torch.Tensor]) -> None:
    workspace, drawn = Workspace(), draw(9, 500)
    with torch.inference_mode():
        find(drawn[0] / 0.05, drawn[1], drawn[2], workspace)
    found = differentiate(lambda o, v, w: find(o, v, w, workspace), drawn)
    expected = differentiate(find_by_torch, drawn)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


def test_a_gradient_is_taken_once() -> None:
    output, vocabulary, word, _ = draw(4, 100)
    losses = find_word_losses(output.requires_grad_() / 0.05, vocabulary, word, Workspace())
    losses.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="taken already"):
        losses.sum().backward()


@pytest.mark.parametrize(("num", "block_rows"), [(1, 8), (8, 8), (9, 8), (70, 8), (70, 1), (70, 100)])
def test_losses_in_blocks_vs_float64(num: int, block_rows: int) -> None:
    words, workspace = 3001, Workspace()
    drawn = draw(num, words)
    exact = differentiate(find_by_torch, tuple(d.double() if d.is_floating_point() else d for d in drawn))

    def find(output: torch.Tensor, vocabulary: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
        return find_word_losses_in_blocks(output, vocabulary, word, workspace, block_rows * words)

    for _ in range(2):
        found = differentiate(find, drawn)
        np.testing.assert_allclose(found[0], exact[0], rtol=3e-6)
        np.testing.assert_allclose(found[1], exact[1], atol=3e-6 * float(exact[1].abs().max()), rtol=0)
    with torch.inference_mode():
        assert torch.equal(find(drawn[0] / 0.05, drawn[1], drawn[2]), found[0])


def test_losses_in_blocks_hold_two_blocks() -> None:
    workspace, words = Workspace(), 1000
    output, vocabulary, word, _ = draw(300, words)
    find_word_losses_in_blocks(output.requires_grad_(), vocabulary, word, workspace, 16 * words).sum().backward()
    assert sorted(len(part) for part in workspace._free) == [16 * words] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(value: float) -> None:
    output, vocabulary, word, _ = draw(3, 50)
    output[1, 2] = value
    for found in (
        find_word_losses(output, vocabulary, word, Workspace()),
        find_word_losses_in_blocks(output, vocabulary, word, Workspace(), 50),
    ):
        assert torch.isfinite(found).tolist() == [True, False, True]
