"""Activation functions that are called as functions, not as modules: told of while a forward pass runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode

ACTIVATION_FUNCTIONS = frozenset(
    {
        *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus"),
        *("hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh", "logsigmoid", "softsign", "tanhshrink"),
    }
)


class FunctionCalls(TorchFunctionMode):
    """Tells of activation functions; what is told may replace their result. What a function is made of is not told."""

    def __init__(self, call: Callable[[str, Any], Any]) -> None:
        super().__init__()
        self._call = call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        return self._call(name, output) if name in ACTIVATION_FUNCTIONS else output
