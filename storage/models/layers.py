"""Which modules of a network can be target layers, and reading, differentiating and replacing their maps.

Hooks always leave the model clean.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lavise.configs.errors import UserError

if TYPE_CHECKING:
    from types import TracebackType

    import torch
    from torch import nn

_NUM_SHOWN = 12


@dataclass(frozen=True)
class Layer:
    """A module whose output is a map: C filters of H x W cells."""

    name: str
    kind: str
    channels: int
    height: int
    width: int


class ActivationTap:
    """Reads the outputs of named modules during a forward pass.

    Hooks are registered on entering and removed on leaving, whatever happens in between.

    Attributes:
        maps: output of each module in the last forward pass, by name.
    """

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        self._network, self._names = network, names
        self._handles: list[Any] = []
        self.maps: dict[str, torch.Tensor] = {}

    def __enter__(self) -> ActivationTap:
        modules = dict(self._network.named_modules())
        chosen = [(name, modules[name]) for name in self._names]
        for name, module in chosen:
            self._handles.append(module.register_forward_hook(self._make_hook(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.maps = {}

    def _make_hook(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            # A copy, because a following in-place activation would overwrite what was read.
            self.maps[name] = output.detach().clone() if hasattr(output, "detach") else output

        return keep


class ActivationLeaf:
    """Cuts the graph at a module's output during a forward pass, so that gradients lead there and no further.

    The hook is registered on entering and removed on leaving, whatever happens in between.

    Attributes:
        maps: output of the module in the last forward pass, a leaf that requires a gradient; None before.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        self._network, self._name = network, name
        self._handle: Any = None
        self.maps: torch.Tensor | None = None

    def __enter__(self) -> ActivationLeaf:
        self._handle = dict(self._network.named_modules())[self._name].register_forward_hook(self._cut)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()
        self.maps = None

    def _cut(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        self.maps = output.detach().clone().requires_grad_(True)
        # A copy goes on, because a following in-place activation must not overwrite a leaf.
        return self.maps.clone()


class ActivationEdit:
    """Replaces channels of a module's output by constants during forward passes (ablation).

    The hook is registered on entering and removed on leaving, whatever happens in between.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        self._network, self._name = network, name
        self._handle: Any = None
        self._channels: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def __enter__(self) -> ActivationEdit:
        self._handle = dict(self._network.named_modules())[self._name].register_forward_hook(self._edit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()
        self._channels = self._values = None

    def replace(self, channels: torch.Tensor, values: torch.Tensor) -> None:
        """From the next forward pass on, channels int64 [S] have values [S] everywhere; all others stay.

        Raises:
            ValueError: not as many values as channels.
        """
        if channels.ndim != 1 or channels.shape != values.shape:
            raise ValueError(f"expected channels [S] and values [S], found {channels.shape} and {values.shape}")
        self._channels, self._values = channels, values

    def _edit(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if self._channels is None or self._values is None:
            return output
        # A copy, because the module may hand out a tensor that others read as well.
        edited = output.clone()
        edited[:, self._channels.to(output.device)] = self._values.to(output)[:, None, None]
        return edited


def list_layers(network: nn.Module, size_px: int) -> list[Layer]:
    """All modules whose output is a map [1, C, H, W] with more than one cell, in the order in which they finish.

    Args:
        size_px: height and width of the input.
    """
    import torch

    found: dict[str, Layer] = {}
    handles = []

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                found.pop(name, None)
                found[name] = Layer(name, type(module).__name__, *(int(n) for n in output.shape[1:]))

        return look

    training = [module for module in network.modules() if module.training]
    network.eval()
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        for name, module in network.named_modules():
            if name:
                handles.append(module.register_forward_hook(watch(name)))
        with torch.inference_mode():
            network(torch.zeros(1, 3, size_px, size_px, device=device))
    except (RuntimeError, ValueError, TypeError, AssertionError) as err:
        raise UserError(
            f"model.preprocessing.size_px: the network does not take a picture of 3 x {size_px} x {size_px} "
            f"({' '.join(str(err).split())[:160]}); set the size that it was trained with"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return list(found.values())


def select_layers(network: nn.Module, size_px: int, names: tuple[str, ...] | str) -> list[Layer]:
    """The layers of the given names; `auto` is the last map of the forward pass.

    Raises:
        UserError: a name that is no such module; answers with those that are.
    """
    layers = list_layers(network, size_px)
    if not layers:
        raise UserError("model.layers: the network has no module whose output is a map [N, C, H, W]; allowed: a CNN")
    if names == "auto":
        return [layers[-1]]
    names = (names,) if isinstance(names, str) else names
    known = {layer.name: layer for layer in layers}
    unknown = [n for n in names if n not in known]
    if unknown:
        raise UserError("model.layers: " + _explain_unknown(unknown[0], list(known)))
    return [known[n] for n in names]


def _explain_unknown(name: str, known: list[str]) -> str:
    short = [n for n in known if n.count(".") == 0]
    shown = difflib.get_close_matches(name, known, n=3) + short
    shown = list(dict.fromkeys(shown))[:_NUM_SHOWN]
    return (
        f"found {name!r}; allowed: {', '.join(shown)} or one of the others of {len(known)}; "
        "`lavise layers MODEL` lists them all"
    )
