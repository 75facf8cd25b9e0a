"""Which calls of a forward pass give maps, and how these lie: found by probing, never by the number of axes alone.

Two forward passes are compared that differ in the number of pictures and, where the network takes them, in height and
width (differently). In a map, axis 0 follows the number of pictures and two axes next to each other follow height and
width; so windows, regions, attention weights and queries are none, and channels that come last are told from channels
that come first. Tokens are a map where their number is that of a grid seen before, and the tokens beside it are known
to come first. A network that takes one size only is judged by the grids of its convolutions.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lavise.configs.errors import CheckpointError, UserError
from lavise.storage.images.geometry import Size, split_size
from lavise.storage.models.layers import FUNCTIONAL, ForwardVisitor, Layer, Layout, Point, name_call, to_input
from lavise.storage.models.locality import find_misplaced

if TYPE_CHECKING:
    import torch
    from torch import nn

_NUM_SHOWN, _MAX_REASON_CHARS = 12, 160
_IMAGES = (1, 2)
_LARGER_PX = 64
_LARGE_PX = 128
_MAX_DOUBLED_PX = 256
_SUM_TOLERANCE = 1e-3
_CLASS_TOKENS = ("cls_token", "class_token")
_MISPLACED = "its cells do not lie in the order of the picture"

Shape = tuple[int, ...]
# Height and width of a grid in the two passes; None where the second did not come so far.
Grid = tuple[tuple[int, int], tuple[int, int] | None]


@dataclass(frozen=True)
class LayerSurvey:
    """What a forward pass of a network shows.

    Attributes:
        layers: those that can be explained, in the order in which they finish.
        refused: name -> why it is no layer, of all other calls, in the same order.
        last_refused: of these, such that come after the last layer and look like a map.
        unproven: names of layers whose axes were told by their lengths alone.
        too_small: names of layers whose map has one cell at this size of pictures, and more at a larger one.
    """

    layers: tuple[Layer, ...]
    refused: Mapping[str, str]
    last_refused: tuple[str, ...]
    unproven: frozenset[str]
    too_small: frozenset[str] = frozenset()

    def without(self, names: Sequence[str]) -> LayerSurvey:
        """The same, with some layers refused since their cells do not lie where the picture has them."""
        if not names:
            return self
        kept = tuple(layer for layer in self.layers if layer.name not in names)
        refused = {**self.refused, **dict.fromkeys(names, _MISPLACED)}
        places = {layer.name: place for place, layer in enumerate(self.layers)}
        last = max((places[layer.name] for layer in kept if _has_cells(layer)), default=-1)
        later = tuple(name for name in names if places[name] > last)
        return replace(self, layers=kept, refused=refused, last_refused=(*later, *self.last_refused))


@dataclass(frozen=True)
class _Output:
    """What one call gave.

    Attributes:
        shape: of a tensor of floating-point numbers; None of anything else, which `other` then describes.
    """

    kind: str
    shape: Shape | None
    other: str = ""


_Call = tuple[Point, int]
_NOT_CALLED = _Output("", None, "a forward pass does not call it")


def survey_layers(network: nn.Module, size_px: Size, channels: int = 3) -> LayerSurvey:
    """Look at all modules of a network, and all activation functions that they call.

    Args:
        size_px: of the input.
        channels: of the input.

    Raises:
        UserError: the network does not take such pictures.
    """
    import torch

    size = split_size(size_px)
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.inference_mode():
            first, error = _record(network, (_IMAGES[0], channels, *size))
            if error:
                raise UserError(_explain_failure(network, error, channels, size)) from None
            larger, same = _record_again(network, channels, size)
            for name, _ in network.named_modules():
                if name:
                    first.setdefault((Point(name), 0), _NOT_CALLED)
            survey = _compare(first, larger, same, _find_prefixes(network), _list_stated_grids(network), size)
            doubtful = [layer for layer in survey.layers if layer.name in survey.unproven]
            return survey.without(find_misplaced(network, doubtful, size_px, channels))
    finally:
        for module in training:
            module.training = True


def select_layers(survey: LayerSurvey, names: tuple[str, ...] | str) -> list[Layer]:
    """The layers of the given names; `auto` is the last map of the forward pass that has more than one filter.

    Raises:
        CheckpointError: where cells lie depends on the weights, too: another checkpoint may be as it should.
        UserError: a name that is no layer; says why, or answers with those that are.
    """
    if not any(map(_has_cells, survey.layers)):
        called = [(name, why) for name, why in survey.refused.items() if why != _NOT_CALLED.other]
        reasons = "".join(f"; {name}: {why}" for name, why in called[-1:])
        raise UserError(
            f"model.layers: the network has no module whose output is a map [N, C, H, W]{reasons}; allowed: a CNN, or "
            "a transformer whose tokens lie in a known grid"
        )
    if names == "auto":
        if survey.last_refused:
            name = survey.last_refused[-1]
            raise _choose_error(survey.refused[name])(
                f"model.layers: 'auto' cannot tell the last map, since {name} comes after {survey.layers[-1].name} and "
                f"{survey.refused[name]}; name a layer: `lavise layers MODEL` lists them"
            )
        taken = ([layer for layer in survey.layers if _is_worth_explaining(layer)] or list(survey.layers))[-1]
        later = survey.layers[survey.layers.index(taken) + 1 :]
        small = [layer for layer in later if layer.name in survey.too_small and layer.channels > 1]
        if small:
            raise UserError(
                f"model.layers: 'auto' would take {small[-1].name}, whose map has one cell for pictures of this size; "
                "set model.preprocessing.size_px to a larger one, or name a layer"
            )
        return [taken]
    names = (names,) if isinstance(names, str) else names
    known = {layer.name: layer for layer in survey.layers}
    for name in names:
        if name not in known:
            error = _choose_error(survey.refused.get(name, ""))
            raise error(f"model.layers: {_explain_unknown(name, list(known), survey.refused)}")
    return [known[n] for n in names]


def _choose_error(reason: str) -> type[UserError]:
    return CheckpointError if reason == _MISPLACED else UserError


def find_layer(network: nn.Module, name: str, size_px: Size, channels: int = 3) -> Layer:
    """The layer of a name.

    Raises:
        UserError: as `survey_layers` and `select_layers`.
    """
    return select_layers(survey_layers(network, size_px, channels), (name,))[0]


def _record(network: nn.Module, shape: Shape) -> tuple[dict[_Call, _Output], Exception | None]:
    """Outputs of all calls of one forward pass, in the order in which they finish, as far as it comes."""
    import torch

    found: dict[_Call, _Output] = {}
    functions: dict[int, tuple[_Call, torch.Tensor]] = {}

    def visit(point: Point, call: int, output: Any) -> None:
        if point.function is None and id(output) in functions:
            # The function's result is all that the module gives: one of the two is enough.
            same, _ = functions.pop(id(output))
            found.pop(same, None)
        found[point, call] = _describe(
            kinds.get(point.module, "") if point.function is None else point.function, output
        )
        if point.function is not None and isinstance(output, torch.Tensor):
            functions[id(output)] = ((point, call), output)  # held, so that no other tensor gets its id

    kinds = {name: type(module).__name__ for name, module in network.named_modules()}
    images = torch.linspace(-1, 1, shape[-1] * shape[-2]).view(1, 1, *shape[2:]).expand(shape).contiguous()
    try:
        with ForwardVisitor(network, visit, None):
            network(to_input(network, images))
    except Exception as err:  # noqa: BLE001 - the network may be anybody's, and fail in any way
        return found, err
    return found, None


def _describe(kind: str, output: Any) -> _Output:
    import torch

    if not isinstance(output, torch.Tensor):
        return _Output(kind, None, f"its output is no tensor but {type(output).__name__}")
    if not output.is_floating_point():
        return _Output(kind, None, f"its output is of {str(output.dtype).removeprefix('torch.')}")
    if (
        output.ndim == 4
        and 1 < output.shape[-2] == output.shape[-1]
        and bool(((output.sum(-1) - 1).abs() < _SUM_TOLERANCE).all())
    ):
        return _Output(kind, None, "it gives attention weights: each row sums to 1")
    return _Output(kind, tuple(output.shape))


def _record_again(
    network: nn.Module, channels: int, size: tuple[int, int]
) -> tuple[dict[_Call, _Output], dict[_Call, _Output]]:
    """The second pass: more pictures that are larger, as far as the network takes such; and more of the same size,
    where it does not."""
    steps = [(_LARGER_PX, _LARGER_PX)] if min(size) >= _LARGE_PX else [size]
    if _LARGE_PX <= min(size) <= _MAX_DOUBLED_PX:
        steps.append(size)
    larger: dict[_Call, _Output] = {}
    for step in steps:
        found, error = _record(network, (_IMAGES[1], channels, *_enlarge(size, step)))
        if not error:
            return found, {}
        # A classifier without pooling fails at its very end; what came before is known all the same.
        larger = max(larger, found, key=len)
    same, _ = _record(network, (_IMAGES[1], channels, *size))
    return larger, same


def _enlarge(size: tuple[int, int], step: tuple[int, int]) -> tuple[int, int]:
    """Height larger by one step and width by two, or the other way round where that would be a square."""
    height, width = size[0] + step[0], size[1] + 2 * step[1]
    return (height, width) if height != width else (size[0] + 2 * step[0], size[1] + step[1])


def _find_prefixes(network: nn.Module) -> set[int]:
    """Numbers of tokens that may come before those of the grid: what the network's modules say of themselves."""
    found = {0}
    for module in network.modules():
        number = getattr(module, "num_prefix_tokens", None)
        if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
            found.add(number)
        else:
            tokens = [p for name, p in module.named_parameters(recurse=False) if name.startswith(_CLASS_TOKENS)]
            found |= {int(p.shape[1]) if p.ndim == 3 else 1 for p in tokens}
    return found


def _list_stated_grids(network: nn.Module) -> list[Grid]:
    """Grids that modules which cut a picture into patches without a convolution say of themselves (timm's name)."""
    sizes = [getattr(module, "grid_size", None) for module in network.modules()]
    pairs = [size for size in sizes if isinstance(size, tuple) and [type(n) for n in size] == [int, int]]
    return [((height, width), None) for height, width in dict.fromkeys(pairs)]


def _compare(
    first: Mapping[_Call, _Output],
    larger: Mapping[_Call, _Output],
    same: Mapping[_Call, _Output],
    prefixes: set[int],
    stated: Sequence[Grid],
    size: tuple[int, int],
) -> LayerSurvey:
    num_calls: dict[Point, int] = {}
    for point, _ in first:
        num_calls[point] = num_calls.get(point, 0) + 1
    # Where nothing follows the size, the network brings all pictures to one size itself.
    follows = any(_follows(output.shape, larger[call].shape) for call, output in first.items() if call in larger)
    grids = list(stated)
    layers: list[Layer] = []
    refused: dict[str, str] = {}
    after: list[str] = []
    unproven: set[str] = set()
    too_small: set[str] = set()
    for (point, call), output in first.items():
        name = name_call(point, call, num_calls[point])
        is_larger = follows and (point, call) in larger
        other = (larger if is_larger or (point, call) not in same else same).get((point, call))
        b = other.shape if other else None
        found = _find_layout(output, b, is_larger, size, grids, prefixes)
        if isinstance(found, str):
            refused[name] = found
            if _may_be_map(output.shape, is_larger, size, grids, prefixes):
                after.append(name)
            grid = _find_grid_of_part(output, b, is_larger, size)
        else:
            layout, prefix, grid, channels = found
            layers.append(Layer(name, output.kind, channels, *grid[0], layout, prefix))
            if grid[0] != (1, 1):
                after.clear()
            if layout == "NTC" or (layout == "NHWC" and grid[1] is None):
                unproven.add(name)
            # Pooling with a window of fixed size gives more cells for larger pictures, and is no layer that is meant.
            if grid[0] == (1, 1) and grid[1] not in (None, (1, 1)) and "Pool" not in output.kind:
                too_small.add(name)
        if grid and grid not in grids:
            grids.append(grid)
    return LayerSurvey(tuple(layers), refused, tuple(after), frozenset(unproven), frozenset(too_small))


def _has_aspect(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a grid is as high for its width as the picture is; of a square one: as high as wide."""
    return grid[0] * size[1] == grid[1] * size[0]


def _list_likely(size: tuple[int, int], grids: Sequence[Grid]) -> set[tuple[int, int]]:
    """Grids that a picture which is not square may have, whatever their aspect ratio: known ones and their halves,
    which rounding has made a little higher or wider. Of squares none: there, equal lengths tell more."""
    if size[0] == size[1]:
        return set()
    return {grid for grid, _ in grids} | {_halve(grid)[0] for grid in grids}


def _may_be_map(
    shape: Shape | None, is_larger: bool, size: tuple[int, int], grids: Sequence[Grid], prefixes: set[int]
) -> bool:
    """Whether what could not be told to be a map looks like one: several cells, in the picture's aspect ratio."""
    if shape is None or len(shape) not in (3, 4) or shape[0] != _IMAGES[0]:
        return False
    likely = _list_likely(size, grids)
    if len(shape) == 4:  # larger pictures leave no doubt
        pairs = [pair for pair in ((shape[1], shape[2]), (shape[2], shape[3])) if math.prod(pair) > 1]
        return not is_larger and any(_has_aspect(pair, size) or pair in likely for pair in pairs)
    # Of a grid of p·k by q·k cells, where p to q is the aspect ratio, k is a whole number.
    unit = math.prod(size) // math.gcd(*size) ** 2
    counts = [shape[1] - prefix for prefix in prefixes if shape[1] - prefix > 1]
    return any(n / unit == math.isqrt(n // unit) ** 2 or n in map(math.prod, likely) for n in counts)


def _find_grid_of_part(output: _Output, b: Shape | None, is_larger: bool, size: tuple[int, int]) -> Grid | None:
    """Of a convolution whose rows are parts of pictures (heads of attention): its grid is one of the network's."""
    a = output.shape
    if output.kind != "Conv2d" or a is None or b is None or len(a) != 4 or len(b) != 4:
        return None
    if a[0] * _IMAGES[1] != b[0] * _IMAGES[0] or not _has_aspect((a[2], a[3]), size):
        return None
    return (a[2], a[3]), ((b[2], b[3]) if is_larger else None)


def _follows(a: Shape | None, b: Shape | None) -> bool:
    return a is not None and b is not None and len(a) == len(b) == 4 and a[1:] != b[1:]


def _find_layout(
    output: _Output,
    b: Shape | None,
    is_larger: bool,
    size: tuple[int, int],
    grids: Sequence[Grid],
    prefixes: set[int],
) -> tuple[Layout, int, Grid, int] | str:
    """Layout, number of prefix tokens, grid and C of an output, or why it is no map.

    Args:
        b: shape in the second pass.
        is_larger: whether the pictures of that were larger.
    """
    a = output.shape
    if a is None:
        return output.other
    if b is None or len(a) != len(b):
        return "it is not called alike for other pictures"
    if len(a) == 2:
        return "it gives one number per filter and no map: it is fully connected, or lies behind the pooling"
    if len(a) not in (3, 4):
        return f"its output has {len(a)} axes; a map has 4"
    if (a[0], b[0]) != _IMAGES:
        return f"its rows are not pictures: {a[0]} and {b[0]} of them for {_IMAGES[0]} and {_IMAGES[1]} pictures"
    if len(a) == 3:
        return _find_token_grid(a, b, is_larger, grids, prefixes)
    if a[2:] == b[2:] == (1, 1):  # behind the pooling
        return "NCHW", 0, ((1, 1), (1, 1) if is_larger else None), a[1]
    if not is_larger:
        return _find_fixed_layout(output.kind, a, size, grids)
    changed = tuple(axis for axis in (1, 2, 3) if a[axis] != b[axis])
    if changed == (2, 3) and not (a[2] == a[3] and b[2] == b[3]):
        return "NCHW", 0, ((a[2], a[3]), (b[2], b[3])), a[1]
    if changed == (1, 2) and not (a[1] == a[2] and b[1] == b[2]):
        return "NHWC", 0, ((a[1], a[2]), (b[1], b[2])), a[3]
    if changed:
        return f"its axes {list(a)} and {list(b)} do not follow the height and width of the pictures: it is no map"
    return "its grid does not follow the size of the picture"


def _find_fixed_layout(
    kind: str, a: Shape, size: tuple[int, int], grids: Sequence[Grid]
) -> tuple[Layout, int, Grid, int] | str:
    """Of an output that is known for one size of pictures only."""
    likely = _list_likely(size, grids)
    first = _has_aspect((a[2], a[3]), size) or (a[2], a[3]) in likely
    last = _has_aspect((a[1], a[2]), size) and size[0] % a[1] == 0 and size[1] % a[2] == 0
    last = last or (a[1], a[2]) in likely
    is_known = (a[2], a[3]) in {known for known, _ in grids}
    if first and (kind == "Conv2d" or (is_known and not last)):
        return "NCHW", 0, ((a[2], a[3]), None), a[1]
    if last and not first:
        return "NHWC", 0, ((a[1], a[2]), None), a[3]
    return f"which of its axes {list(a)} are height and width cannot be told"


def _find_token_grid(
    a: Shape, b: Shape, is_larger: bool, grids: Sequence[Grid], prefixes: set[int]
) -> tuple[Layout, int, Grid, int] | str:
    """Of tokens [N, T, C]: the latest grid seen before of which there is a token for each cell, or for every second
    one in each direction."""
    if a[2] != b[2]:
        return f"its axes {list(a)} and {list(b)} are no rows of tokens"
    for grid in [*reversed(grids), *(_halve(grid) for grid in reversed(grids))]:
        (height, width), larger = grid
        if is_larger and larger is None:
            continue
        cells = larger[0] * larger[1] if is_larger and larger else height * width
        for prefix in sorted(prefixes):
            if height * width > 1 and (a[1], b[1]) == (prefix + height * width, prefix + cells):
                return "NTC", prefix, grid, a[2]
    return f"its {a[1]} tokens are no known grid"


def _halve(grid: Grid) -> Grid:
    (height, width), larger = grid
    return (-(-height // 2), -(-width // 2)), (-(-larger[0] // 2), -(-larger[1] // 2)) if larger else None


def _is_worth_explaining(layer: Layer) -> bool:
    """For `auto`: more than one filter and cell, and no projection inside a transformer or classifier of its tokens."""
    is_projection = layer.layout == "NTC" and layer.kind == "Linear"
    return layer.channels > 1 and _has_cells(layer) and not is_projection


def _has_cells(layer: Layer) -> bool:
    return layer.height * layer.width > 1


def _explain_failure(network: nn.Module, error: Exception, channels: int, size: tuple[int, int]) -> str:
    from torch import nn

    text = " ".join(str(error).split())[:_MAX_REASON_CHARS]
    if any(isinstance(module, nn.Conv3d) for module in network.modules()):
        return f"model.arch: the network takes videos or volumes, not pictures ({text}); allowed: a network of pictures"
    if isinstance(error, TypeError) and "argument" in text:
        return (
            f"model.arch: the network cannot be called with one picture ({text}); wrap it: "
            "model.arch=path/to/file.py:callable, which returns a network that takes pictures alone"
        )
    wanted = re.search(r"to have (\d+) channels", text)
    if wanted and wanted[1] == "1":
        return (
            "model.preprocessing.mean: the network takes grey pictures; set model.preprocessing.mean and .std to one "
            f"number each, as it was trained with ({text})"
        )
    if wanted and wanted[1] != str(channels):
        return (
            f"model.preprocessing.mean: the network takes pictures of {wanted[1]} channels, not of {channels} "
            f"({text}); set model.preprocessing.mean and .std to {wanted[1]} numbers each, as it was trained with: one "
            "for each band of the pictures, on the scale 0..1; for pictures of other bands, wrap it (docs/layers.md)"
        )
    return (
        f"model.preprocessing.size_px: the network does not take a picture of {channels} x {size[0]} x {size[1]} "
        f"({text}); set the size that it was trained with"
    )


def _explain_unknown(name: str, known: list[str], refused: Mapping[str, str]) -> str:
    if name in refused:
        return f"{name!r} cannot be explained: {refused[name]}; `lavise layers MODEL` lists the layers that can"
    calls = [n for n in known if name and n.rpartition(":")[0] == name]
    if calls:
        return f"{name!r} is called {len(calls)} times in a forward pass; allowed: {', '.join(calls[:_NUM_SHOWN])}"
    short = [n for n in known if n.count(".") == 0 and n != FUNCTIONAL]
    shown = difflib.get_close_matches(name, known, n=3) + short
    shown = list(dict.fromkeys(shown))[:_NUM_SHOWN]
    return (
        f"found {name!r}; allowed: {', '.join(shown)} or one of the others of {len(known)}; "
        "`lavise layers MODEL` lists them all"
    )
