"""A target layer: one call of a module (or of an activation function) whose output is a map, and reading,
differentiating and replacing that map.

Whatever way an output lies in memory (channels first or last, or a row of tokens), everything outside this module sees
maps [N, C, H, W]. Hooks always leave the model clean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from types import TracebackType

    import torch
    from torch import nn

Layout = Literal["NCHW", "NHWC", "NTC"]
FUNCTIONAL = "functional"
"""Stands in a layer's name between the module that calls an activation function and the function's name."""


@dataclass(frozen=True)
class Layer:
    """One call whose output is a map: C filters of H x W cells.

    Attributes:
        name: the module's; `NAME:k` for its k-th call (from 0) where a forward pass calls it several times;
            `NAME.functional.relu` for an activation function that the module NAME calls itself.
        kind: class of the module, or name of the function.
        layout: how the output lies: NCHW, NHWC, or NTC (tokens: row by row of the grid, after the prefix tokens).
        num_prefix_tokens: of NTC: tokens that are no cell of the grid (class token, registers).
    """

    name: str
    kind: str
    channels: int
    height: int
    width: int
    layout: Layout = "NCHW"
    num_prefix_tokens: int = 0

    def to_maps(self, output: torch.Tensor) -> torch.Tensor:
        """View of an output as maps [N, C, H, W]."""
        if self.layout == "NCHW":
            return output
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        return output[:, self.num_prefix_tokens :].unflatten(1, (self.height, self.width)).permute(0, 3, 1, 2)

    def with_channels_last(self, output: torch.Tensor) -> torch.Tensor:
        """View of an output with its cells before its channels: [N, ..., C]; without the prefix tokens."""
        if self.layout == "NCHW":
            return output.permute(0, 2, 3, 1)
        return output if self.layout == "NHWC" else output[:, self.num_prefix_tokens :]

    def describe_layout(self) -> str:
        """`NHWC`, or `NTC, 1 prefix token`; for people, and for digests of what is read otherwise than by default."""
        if not self.num_prefix_tokens:
            return self.layout
        return f"{self.layout}, {self.num_prefix_tokens} prefix token{'s' if self.num_prefix_tokens > 1 else ''}"


@dataclass(frozen=True)
class Point:
    """Where in a forward pass an output is: a module and, for a function that it calls itself, the function's name."""

    module: str
    function: str | None = None

    def __str__(self) -> str:
        return ".".join(part for part in (self.module, *((FUNCTIONAL, self.function) if self.function else ())) if part)


def name_call(point: Point, call: int, num_calls: int) -> str:
    """Of a layer: without a number where there is but one call."""
    return str(point) if num_calls == 1 else f"{point}:{call}"


def parse_name(name: str, modules: Mapping[str, Any]) -> tuple[Point, int]:
    """Point and call of a layer's name.

    Raises:
        KeyError: no such module.
    """
    path, sep, number = name.rpartition(":")
    call = int(number) if sep and number.isdecimal() and name not in modules else 0
    path = path if sep and number.isdecimal() and name not in modules else name
    if path in modules:
        return Point(path), call
    module, _, function = path.rpartition(".")
    module, _, mark = ("", "", module) if module == FUNCTIONAL else module.rpartition(".")
    if mark != FUNCTIONAL or module not in modules:
        raise KeyError(name)
    return Point(module, function), call


def to_input(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Images on the network's device, in the precision of its parameters."""
    import torch

    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    return images.to("cpu", torch.float32) if parameter is None else images.to(parameter.device, parameter.dtype)


# Gets the point, the number of its call in this forward pass, and the output; what it returns replaces the output,
# unless it is None.
Visit = Callable[[Point, int, Any], Any]


class ForwardVisitor:
    """Is told of outputs during forward passes; hooks are registered on entering and removed on leaving.

    Args:
        points: that are visited; None for all modules but the network itself, and all activation functions.
    """

    def __init__(self, network: nn.Module, visit: Visit, points: Sequence[Point] | None) -> None:
        self._network, self._visit, self._points = network, visit, points
        self._calls: dict[Point, int] = {}
        self._running: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> ForwardVisitor:
        modules = dict(self._network.named_modules())
        points = self._points
        chosen = [p.module for p in points if p.function is None] if points is not None else [n for n in modules if n]
        absent = [name for name in chosen if name not in modules]
        if absent:
            raise KeyError(absent[0])
        with ExitStack() as stack:
            self._hold(stack, self._network.register_forward_pre_hook(self._begin))
            if points is None or any(p.function for p in points):
                self._follow_functions(stack, modules)
            for name in dict.fromkeys(chosen):
                self._hold(stack, modules[name].register_forward_hook(self._make_hook(Point(name))))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._calls.clear()
        self._running.clear()

    def _follow_functions(self, stack: ExitStack, modules: Mapping[str, nn.Module]) -> None:
        from lavise.storage.models.function_calls import FunctionCalls

        # What a module without parts calls is told by its own output.
        inner = {name for name, module in modules.items() if next(module.children(), None) is not None}
        wanted = None if self._points is None else {p for p in self._points if p.function}
        for name, module in modules.items():
            if name:
                self._hold(stack, module.register_forward_pre_hook(self._make_entry(name)))
                self._hold(stack, module.register_forward_hook(self._leave, always_call=True))
        self._hold(stack, self._network.register_forward_hook(self._leave, always_call=True))

        def call(function: str, output: Any) -> Any:
            if not self._running or self._running[-1] not in inner:
                return output
            point = Point(self._running[-1], function)
            return output if wanted is not None and point not in wanted else self._tell(point, output)

        stack.enter_context(FunctionCalls(call))

    @staticmethod
    def _hold(stack: ExitStack, handle: Any) -> None:
        stack.callback(handle.remove)

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self._calls.clear()
        self._running[:] = [""]

    def _make_entry(self, name: str) -> Any:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._running.append(name)

        return enter

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._running:
            self._running.pop()

    def _make_hook(self, point: Point) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            return self._tell(point, output)

        return hook

    def _tell(self, point: Point, output: Any) -> Any:
        call = self._calls.get(point, 0)
        self._calls[point] = call + 1
        replaced = self._visit(point, call, output)
        return output if replaced is None else replaced


class LayerHooks(ABC):
    """A visitor of some layers, each at its own call."""

    def __init__(self, network: nn.Module, layers: Sequence[Layer]) -> None:
        modules = dict(network.named_modules())
        self._layers = {parse_name(layer.name, modules): layer for layer in layers}
        self._visitor = ForwardVisitor(network, self._visit, [point for point, _ in self._layers])

    def __enter__(self) -> Any:
        self._visitor.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._visitor.__exit__(kind, error, trace)
        self.forget()

    def _visit(self, point: Point, call: int, output: Any) -> Any:
        layer = self._layers.get((point, call))
        return None if layer is None else self.handle(layer, output)

    @abstractmethod
    def handle(self, layer: Layer, output: torch.Tensor) -> torch.Tensor | None:
        """Of each layer's own call; what it returns replaces the output, unless it is None."""

    @abstractmethod
    def forget(self) -> None:
        """Lets go of what was kept."""


class ActivationTap(LayerHooks):
    """Reads the maps of layers during a forward pass.

    Attributes:
        maps: [N, C, H, W] of each layer in the last forward pass, by name.
    """

    def __init__(self, network: nn.Module, layers: Sequence[Layer]) -> None:
        super().__init__(network, layers)
        self.maps: dict[str, torch.Tensor] = {}

    def handle(self, layer: Layer, output: torch.Tensor) -> None:
        # A copy, because a following in-place activation would overwrite what was read.
        self.maps[layer.name] = layer.to_maps(output.detach().clone())

    def forget(self) -> None:
        self.maps = {}


class ActivationLeaf(LayerHooks):
    """Cuts the graph at a layer's output during a forward pass, so that gradients lead there and no further.

    Attributes:
        layer: whose output it is.
        output: of the last forward pass, as the network has it, a leaf that requires a gradient; None before.
    """

    def __init__(self, network: nn.Module, layer: Layer) -> None:
        super().__init__(network, (layer,))
        self.layer = layer
        self.output: torch.Tensor | None = None

    def handle(self, layer: Layer, output: torch.Tensor) -> torch.Tensor:
        self.output = output.detach().clone().requires_grad_(True)
        # A copy goes on, because a following in-place activation must not overwrite a leaf.
        return self.output.clone()

    def forget(self) -> None:
        self.output = None


class ActivationEdit(LayerHooks):
    """Replaces channels of a layer's output by constants during forward passes (ablation)."""

    def __init__(self, network: nn.Module, layer: Layer) -> None:
        super().__init__(network, (layer,))
        self._channels: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def replace(self, channels: torch.Tensor, values: torch.Tensor) -> None:
        """From the next forward pass on, channels int64 [S] have values [S] in every cell; all others stay.

        Raises:
            ValueError: not as many values as channels.
        """
        if channels.ndim != 1 or channels.shape != values.shape:
            raise ValueError(f"expected channels [S] and values [S], found {channels.shape} and {values.shape}")
        self._channels, self._values = channels, values

    def handle(self, layer: Layer, output: torch.Tensor) -> torch.Tensor | None:
        if self._channels is None or self._values is None:
            return None
        # A copy, because the module may hand out a tensor that others read as well.
        edited = output.clone()
        layer.with_channels_last(edited)[..., self._channels.to(output.device)] = self._values.to(output)
        return edited

    def forget(self) -> None:
        self._channels = self._values = None
