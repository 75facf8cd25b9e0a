"""Weights that a file holds in parts: weight norm, spectral norm, pruning. torch itself puts them together.

The parts are known by their names alone (`weight_g` and `weight_v`, `parametrizations.weight.original0`, ...), and the
dimension that a norm runs over by their shapes. Where these leave several weights, none is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lavise.storage.state.text import printable

if TYPE_CHECKING:
    import torch
    from torch import nn

_NEW = re.compile(r"^((?:.*\.)?)parametrizations\.([^.]+)\.(.+)$")
_OLD = re.compile(r"^(.+)_(orig|mask|g|u|v)$")
_ALWAYS_PARTS = frozenset({"orig", "original", "original0"})
"""Of names with these, something is missing where the others are not known; `q_u` may be anything."""
_ADVICE = "save it whole: torch.nn.utils.parametrize.remove_parametrizations, or torch.nn.utils.prune.remove"
_MAX_SHOWN_CHARS = 80
# Training leaves u parallel to W v, but for what its last step changed in W. In another dimension that is so by chance.
_MANY_NUMBERS = 16
_MOST_DEVIATION, _MOST_DEVIATION_OF_FEW, _LEAST_RATIO = 0.2, 0.001, 4.0
"""Of 1 - cos of the angle between the two: in the dimension that is taken, and of any other to that. Steps in a network
with batch normalisation are large, and change it by 0.1; vectors of few numbers come that near by chance."""


class _UnclearError(Exception):
    """Parts that give no weight, or several; the message says why."""


@dataclass(frozen=True)
class Computed:
    """A state dict whose weights are whole.

    Attributes:
        tensors: by their names; a weight stands where the first of its parts stood.
        kinds: of the weights that were computed, by their names.
        unclear: of those that could not be, why, and what to do.
    """

    tensors: Mapping[str, torch.Tensor]
    kinds: Mapping[str, str] = field(default_factory=dict)
    unclear: Mapping[str, str] = field(default_factory=dict)


def compute_weights(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Computed:
    """Weights as torch has them in evaluation mode, from the parts that a state dict holds.

    Args:
        tensors: of the state dict; what is no part is left as it is.
        dtype: of the network that they are for: parts of another precision are taken into it first, as a network
            with such parts would take them.
    """
    groups: dict[str, dict[str, str]] = {}
    target_of: dict[str, str] = {}
    for key in tensors:
        if match := _NEW.match(key):
            target, part = match[1] + match[2], match[3]
        elif match := _OLD.match(key):
            target, part = match[1], match[2]
        else:
            continue
        groups.setdefault(target, {})[part] = key
        target_of[key] = target
    whole: dict[str, torch.Tensor] = {}
    kinds: dict[str, str] = {}
    unclear: dict[str, str] = {}
    for target, keys in groups.items():
        known = _KINDS.get(frozenset(keys))
        if target in tensors or not (known or _ALWAYS_PARTS & keys.keys()):
            continue
        try:
            if known is None:
                raise _UnclearError(f"is in parts that are none of a known kind ({', '.join(sorted(keys))})")
            kind, names, compute = known
            whole[target] = compute([_take_into(tensors[keys[name]], dtype) for name in names])
            kinds[target] = kind
        except _UnclearError as err:
            unclear[target] = f"{printable(target)[:_MAX_SHOWN_CHARS]} {printable(str(err))}; {_ADVICE}"
    found: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        target = target_of.get(key, "")
        if target in whole:
            found[target] = whole[target]
        else:
            found[key] = tensor
    return Computed(found, kinds, unclear)


def _take_into(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _compute_weight_norm(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of magnitudes g and directions v, whose norm runs over all dimensions but the one in which g has a length."""
    import torch
    from torch.nn.utils import parametrizations

    g, v = parts
    if g.ndim == 0:
        dimensions: list[int | None] = [None]
    else:
        dimensions = [d for d in range(v.ndim) if list(g.shape) == [n if i == d else 1 for i, n in enumerate(v.shape)]]

    def compute(dim: int | None) -> torch.Tensor:
        module = parametrizations.weight_norm(_hold(v), "weight", dim)  # type: ignore[arg-type] # None is documented
        return _evaluate(module, {"original0": g, "original1": v})

    weights = [compute(dim) for dim in dimensions]
    if not weights or not all(torch.equal(weight, weights[0]) for weight in weights):
        raise _UnclearError(f"has magnitudes {tuple(g.shape)} that do not tell one dimension of {tuple(v.shape)}")
    return weights[0]


def _compute_new_spectral_norm(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch
    from torch.nn.utils import parametrizations

    original, u, v = parts
    dim = _find_spectral_dimension(original, u, v)
    with torch.random.fork_rng(devices=[]):  # it begins with vectors at random, which are then replaced
        module = parametrizations.spectral_norm(_hold(original), "weight", dim=dim)
    return _evaluate(module, {"original": original, "0._u": u, "0._v": v})


def _compute_old_spectral_norm(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch
    from torch.nn.utils import remove_spectral_norm, spectral_norm

    original, u, v = parts
    dim = _find_spectral_dimension(original, u, v)
    with torch.random.fork_rng(devices=[]):
        module = spectral_norm(_hold(original), "weight", dim=dim)
    module.load_state_dict({"weight_orig": original, "weight_u": u, "weight_v": v})
    weight: torch.Tensor = remove_spectral_norm(module.eval()).get_parameter("weight")
    return weight.detach()


def _find_spectral_dimension(original: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> int:
    """The one of which u has the length and v the rest; of several, the one in which u is what training leaves.

    Raises:
        _UnclearError: none, or several.
    """
    import torch

    if u.ndim != 1 or v.ndim != 1:
        raise _UnclearError(f"has vectors of the shapes {tuple(u.shape)} and {tuple(v.shape)}")
    sizes = {d: (n, original.numel() // max(n, 1)) for d, n in enumerate(original.shape)}
    dimensions = [d for d, size in sizes.items() if size == (u.numel(), v.numel())]
    if not dimensions:
        raise _UnclearError(f"has vectors of {u.numel()} and {v.numel()} numbers for {tuple(original.shape)}")
    if len(dimensions) == 1:
        return dimensions[0]
    deviation = {}
    for dim in dimensions:
        product = torch.mv(original.movedim(dim, 0).reshape(u.numel(), -1).double(), v.double())
        deviation[dim] = 1 - float(torch.nn.functional.cosine_similarity(u.double(), product, dim=0))
    best, *others = sorted(dimensions, key=lambda dim: deviation[dim])
    most = _MOST_DEVIATION if u.numel() >= _MANY_NUMBERS else _MOST_DEVIATION_OF_FEW
    if not (deviation[best] < most and deviation[others[0]] > _LEAST_RATIO * deviation[best]):
        raise _UnclearError(f"has vectors that fit {len(dimensions)} dimensions of {tuple(original.shape)} alike")
    return best


def _compute_pruned(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    from torch.nn.utils import prune

    original, mask = parts
    if original.shape != mask.shape:
        raise _UnclearError(f"has a mask {tuple(mask.shape)} for {tuple(original.shape)}")
    module = prune.custom_from_mask(_hold(original), "weight", mask)
    weight: torch.Tensor = prune.remove(module, "weight").get_parameter("weight")
    return weight.detach()


def _hold(tensor: torch.Tensor) -> nn.Module:
    """A module that has nothing but a weight."""
    from torch import nn

    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(tensor.clone(), requires_grad=False))
    return module


def _evaluate(module: nn.Module, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The weight that a parametrised module has in evaluation mode with the parts of a file."""
    module.load_state_dict({f"parametrizations.weight.{name}": tensor for name, tensor in parts.items()})
    weight: torch.Tensor = module.eval().weight  # type: ignore[assignment]
    return weight.detach()


# By the names of the parts: what it is called, and what puts the parts together, in this order.
_KINDS: Mapping[frozenset[str], tuple[str, tuple[str, ...], Callable[[Sequence[torch.Tensor]], torch.Tensor]]] = {
    frozenset(names): (kind, names, compute)
    for kind, names, compute in (
        ("weight norm", ("g", "v"), _compute_weight_norm),
        ("weight norm", ("original0", "original1"), _compute_weight_norm),
        ("spectral norm", ("orig", "u", "v"), _compute_old_spectral_norm),
        ("spectral norm", ("original", "0._u", "0._v"), _compute_new_spectral_norm),
        ("pruning", ("orig", "mask"), _compute_pruned),
    )
}
