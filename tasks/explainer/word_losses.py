"""Cross entropy of V v̂ with one word of a fixed vocabulary, without fresh memory for each R x V matrix of numbers.

The vocabulary gets no gradient, so that of v̂ is (p - onehot) V and needs nothing that is V wide to be kept.
Shape legend: R regions, E embedding, V words, B regions of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Of one block: 128 MiB of float32, 516 regions with 65,000 words.
BLOCK_ENTRIES = 1 << 25


class Workspace:
    """Memory for matrices as wide as the vocabulary, lent from one step to the next.

    Fresh pages for them cost the CPU about a third of a step's time. What is lent twice at once is another piece.
    """

    def __init__(self) -> None:
        self._free: list[torch.Tensor] = []
        self._zeros: list[torch.Tensor] = []

    def lend(self, like: torch.Tensor, num: int) -> torch.Tensor:
        """At least `num` numbers that hold anything: [num or more]."""
        return _take(self._free, like, num, torch.empty)

    def give_back(self, *parts: torch.Tensor) -> None:
        self._free += parts

    def lend_zeros(self, like: torch.Tensor, num: int) -> torch.Tensor:
        """At least `num` zeros."""
        return _take(self._zeros, like, num, torch.zeros)

    def give_back_zeros(self, part: torch.Tensor) -> None:
        """Zeros again."""
        self._zeros.append(part)


def _take(parts: list[torch.Tensor], like: torch.Tensor, num: int, make: Any) -> torch.Tensor:
    """The last piece that is large enough; those that are too small are dropped."""
    while parts:
        part = parts.pop()
        if len(part) >= num and (part.dtype, part.device) == (like.dtype, like.device):
            return part
    with torch.inference_mode(False):  # what is made in that mode cannot be written to outside of it
        made: torch.Tensor = make(num, dtype=like.dtype, device=like.device)
    return made


def find_word_losses(
    scaled_RE: torch.Tensor, vocabulary_VE: torch.Tensor, word_R: torch.Tensor, workspace: Workspace
) -> torch.Tensor:
    """To the bit `cross_entropy(scaled_RE @ vocabulary_VE.T, word_R, reduction="none")`, and so is its gradient.

    Returns:
        losses [R].
    """
    found: torch.Tensor = _WordLosses.apply(scaled_RE, vocabulary_VE, word_R, workspace, _needs_gradient(scaled_RE))
    return found


def find_word_losses_in_blocks(
    scaled_RE: torch.Tensor,
    vocabulary_VE: torch.Tensor,
    word_R: torch.Tensor,
    workspace: Workspace,
    block_entries: int = BLOCK_ENTRIES,
) -> torch.Tensor:
    """The same to rounding, with no more memory than a block of regions takes, however many there are.

    Args:
        block_entries: of B x V; two such matrices are held at a time.

    Returns:
        losses [R].
    """
    wanted = _needs_gradient(scaled_RE)
    found: torch.Tensor = _BlockedLosses.apply(
        scaled_RE, vocabulary_VE, word_R, workspace, max(block_entries // len(vocabulary_VE), 1), wanted
    )
    return found


def _find_logs(
    scaled_BE: torch.Tensor, vocabulary_VE: torch.Tensor, logits: torch.Tensor, logs: torch.Tensor
) -> torch.Tensor:
    """Logarithms of the softmax of V v̂, [B, V] of `logs`; `logits` is memory of as many numbers."""
    shape = len(scaled_BE), len(vocabulary_VE)
    logits_BV, logs_BV = _shape(logits, *shape), _shape(logs, *shape)
    torch.mm(scaled_BE, vocabulary_VE.T, out=logits_BV)
    torch.ops.aten._log_softmax.out(logits_BV, 1, False, out=logs_BV)
    return logs_BV


def _needs_gradient(tensor: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and tensor.requires_grad


def _shape(part: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    return part[: rows * columns].view(rows, columns)


class _WordLosses(torch.autograd.Function):
    """The kernels that torch itself takes, in memory that is lent."""

    @staticmethod
    def forward(
        ctx: Any,
        scaled_RE: torch.Tensor,
        vocabulary_VE: torch.Tensor,
        word_R: torch.Tensor,
        workspace: Workspace,
        wanted: bool,
    ) -> torch.Tensor:
        num = len(scaled_RE) * len(vocabulary_VE)
        logits, logs = workspace.lend(scaled_RE, num), workspace.lend(scaled_RE, num)
        logs_RV = _find_logs(scaled_RE, vocabulary_VE, logits, logs)
        losses = -logs_RV.gather(1, word_R[:, None])[:, 0]
        workspace.give_back(logits)
        if wanted:
            ctx.save_for_backward(vocabulary_VE, word_R)
            ctx.logs, ctx.workspace = logs, workspace
        else:
            workspace.give_back(logs)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_R: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        vocabulary_VE, word_R = ctx.saved_tensors
        workspace, logs = ctx.workspace, ctx.logs
        if logs is None:
            raise RuntimeError("the gradient of these losses has been taken already")
        ctx.logs = None
        rows, columns = len(word_R), len(vocabulary_VE)
        zeros, spread = workspace.lend_zeros(logs, rows * columns), workspace.lend(logs, rows * columns)
        own_RV, spread_RV = _shape(zeros, rows, columns), _shape(spread, rows, columns)
        own_RV.scatter_(1, word_R[:, None], -gradient_R[:, None])
        torch.ops.aten._log_softmax_backward_data.out(own_RV, _shape(logs, rows, columns), 1, logs.dtype, out=spread_RV)
        own_RV.scatter_(1, word_R[:, None], 0.0)
        gradient_RE = spread_RV @ vocabulary_VE
        workspace.give_back(logs, spread)
        workspace.give_back_zeros(zeros)
        return gradient_RE, None, None, None, None


class _BlockedLosses(torch.autograd.Function):
    """The gradient is found beside the losses, block by block; backward only weighs it."""

    @staticmethod
    def forward(
        ctx: Any,
        scaled_RE: torch.Tensor,
        vocabulary_VE: torch.Tensor,
        word_R: torch.Tensor,
        workspace: Workspace,
        block_rows: int,
        wanted: bool,
    ) -> torch.Tensor:
        columns, losses_R = len(vocabulary_VE), scaled_RE.new_empty(len(scaled_RE))
        gradient_RE = torch.empty_like(scaled_RE) if wanted else None
        num = min(block_rows, len(scaled_RE)) * columns
        logits, logs = workspace.lend(scaled_RE, num), workspace.lend(scaled_RE, num)
        for start in range(0, len(scaled_RE), block_rows):
            block = slice(start, start + block_rows)
            scaled_BE, word_B = scaled_RE[block], word_R[block]
            logs_BV = _find_logs(scaled_BE, vocabulary_VE, logits, logs)
            losses_R[block] = -logs_BV.gather(1, word_B[:, None])[:, 0]
            if gradient_RE is not None:
                gradient_RE[block] = torch.mm(logs_BV.exp_(), vocabulary_VE) - vocabulary_VE[word_B]
        workspace.give_back(logits, logs)
        if gradient_RE is not None:
            ctx.save_for_backward(gradient_RE)
        return losses_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_R: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient_RE,) = ctx.saved_tensors
        return gradient_R[:, None] * gradient_RE, None, None, None, None, None
