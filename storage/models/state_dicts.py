"""Which of a checkpoint's state dicts is the network's, and loading it strictly.

A file may hold several: raw weights and their average, student and teacher. One is taken by itself only where it is
the only one that has every tensor of the network, in its shape, below one prefix.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavise.configs.errors import AmbiguousWeightsError, CheckpointError
from lavise.storage.models.checkpoint_files import INDEX_SUFFIX, NoNetworkError
from lavise.storage.models.distributed_checkpoints import explain_part
from lavise.storage.models.inert_pickle import Inert, walk
from lavise.storage.models.parametrisations import compute_weights
from lavise.storage.models.weight_files import is_shard_name
from lavise.storage.state.text import one_line, printable

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger("lavise")
AUTO = "auto"
ROOT = "."
"""Names the whole file where a state dict's key is wanted."""
_NUM_SHOWN = 3
_MAX_SHOWN_CHARS, _MAX_LISTED_CHARS = 80, 400
_SWA_AVERAGE = "average_model_state"
_BATCH_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# Entries of a checkpoint that are never a network: whatever lies below them is not looked at.
_NOT_NETWORKS = frozenset(
    "optimizer optimizers optimizer_states opt lr_scheduler lr_schedulers scheduler schedulers param_schedulers "
    "param_groups scaler amp_scaler loops message_hub rng rng_state hyper_parameters args".split()
)
_USELESS = {
    "_rebuild_qtensor": "quantised tensors",
    "_rebuild_meta_tensor_no_storage": "tensors without values (of torch's meta device)",
}
_COMPILED = "_orig_mod."
_NUMBERED = (
    "its parts have numbers for names, as where a network was cut into a Sequential (fastai's vision_learner, "
    "Lightly): set model.arch to code of yours that builds the same"
)
_ABOUT = {
    "state_dict_ema": "the average (EMA)",
    "model_ema": "the average (EMA)",
    "ema": "the average (EMA)",
    "ema_model": "the average (EMA)",
    "ema_state_dict": "the average (EMA)",
    "swa_model": "the average (SWA)",
    "averaging_state": "the average",
    "current_model_state": "the raw weights",
    "teacher": "the teacher",
    "student": "the student",
}


@dataclass(frozen=True)
class StateDict:
    """A mapping of names to tensors in a checkpoint.

    Attributes:
        key: dotted, under which it stands; "" where it is the whole file.
        tensors: by their names in it.
        about: what it is known to be, for people; "" where that is not known.
        kinds: of tensors that stand there in parts and were put together: weight norm, spectral norm or pruning.
        unclear: of tensors whose parts could not be put together, why.
    """

    key: str
    tensors: Mapping[str, torch.Tensor]
    about: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    unclear: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Fit:
    """A way to put a state dict into the network."""

    found: StateDict
    prefix: str
    given: Mapping[str, torch.Tensor]
    foreign: tuple[str, ...]


def list_state_dicts(content: Any, path: Path) -> list[StateDict]:
    """All state dicts of a checkpoint, in the order in which they stand.

    Raises:
        NoNetworkError: there is none.
    """
    import torch

    if reason := explain_part(content, path):
        raise CheckpointError(f"model.weights: {path} {reason}")
    found: list[StateDict] = []
    optimizers: list[str] = []
    useless = ""
    for key, value in walk(content):
        if isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys():
            optimizers.append(key)
        useless = useless or (_USELESS.get(value.origin.rpartition(".")[2], "") if isinstance(value, Inert) else "")
        is_known = not isinstance(value, Mapping) or _NOT_NETWORKS & set(key.split("."))
        if is_known or any(_is_within(key, other) for other in (*optimizers, *(s.key for s in found if s.key))):
            continue
        tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        if any(v.ndim >= 2 and v.is_floating_point() for v in tensors.values()):
            found.append(StateDict(key, tensors))
    if useless:
        raise CheckpointError(f"model.weights: {path} holds {useless}; allowed: a state dict of floating-point numbers")
    if not found:
        raise NoNetworkError(
            f"model.weights: found no state dict of a network in {path}; allowed: a state dict of floating-point "
            "numbers, whole or under a key"
        )
    is_mmengine = isinstance(content, Mapping) and {"ema_state_dict", "state_dict"} <= content.keys()
    return [StateDict(s.key, s.tensors, _tell_about(s.key, content, is_mmengine)) for s in found]


def _uses_composers_average(content: Any) -> bool:
    """Whether Composer's EMA had put the average into the network when it was saved; `ema_model` is then the rest."""
    state = content.get("state") if isinstance(content, Mapping) else None
    algorithms = state.get("algorithms") if isinstance(state, Mapping) else None
    return any(
        isinstance(facts, Mapping) and facts.get("ema_weights_active") is True
        for entry in (algorithms if isinstance(algorithms, list | tuple) else ())
        for facts in (entry if isinstance(entry, list | tuple) else ())
    )


def _is_within(key: str, other: str) -> bool:
    return not other or key == other or key.startswith(f"{other}.")


def _tell_about(key: str, content: Any, is_mmengine: bool) -> str:
    """What a state dict is where the trainers that write such files say so (docs/checkpoints.md)."""
    if is_mmengine:  # its EMAHook exchanges the two, so that what is loaded by default is the average
        return {"state_dict": "the average (EMA)", "ema_state_dict": "the raw weights"}.get(key, "")
    if key.endswith(_SWA_AVERAGE):
        return "the average (SWA) with batch statistics that were never trained: no network of its own"
    if key == "state_dict" and isinstance(content, Mapping) and "averaging_state" in content:
        return "the average"
    if key == "state.model" and _uses_composers_average(content):
        return "the average (EMA)"
    if key.startswith("state.algorithms.") and ".ema_model." in key:
        return "parameters alone, " + ("the raw ones" if _uses_composers_average(content) else "the average (EMA)")
    return _ABOUT.get(key.rsplit(".", 1)[-1], "")


def load_weights(
    network: nn.Module,
    content: Any,
    path: Path,
    keys: Sequence[str] = (),
    prefix: str | None = None,
    by_order: bool = False,
    names_in_files: Mapping[str, str] | None = None,
) -> None:
    """Put a checkpoint's tensors into a network, all that it has, with the shapes that it has.

    Args:
        content: of the file (`read_checkpoint`).
        keys: of state dicts in it, the first that is there counts; `auto` stands for the one that fits. Empty: auto.
        prefix: before the network's names; None: whatever fits.
        by_order: where no name fits, pair names by their order, if the number and every shape are the same.
        names_in_files: of the network's names, those that its library gives them in files, where these are others.

    Raises:
        CheckpointError: none fits; names what differs.
        UserError: several fit; names them.
    """
    candidates = _choose(list_state_dicts(content, path), keys, path)
    wanted = network.state_dict()
    forms = [(found, _put_together(found, wanted)) for found in candidates]
    fits = [fit for form in forms for fit in next(filter(None, (_find_fits(f, wanted, prefix) for f in form)), [])]
    if names_in_files:
        renamed = {names_in_files[name]: tensor for name, tensor in wanted.items()}
        back = {other: name for name, other in names_in_files.items()}
        others = [fit for form in forms for fit in _find_fits(form[0], renamed, prefix)]
        fits += [replace(fit, given={back[name]: tensor for name, tensor in fit.given.items()}) for fit in others]
    if not fits and by_order:
        fits = [fit for found in candidates if (fit := _pair_by_order(found, wanted))]
    if not fits:
        raise CheckpointError(_explain_misfit([form for pair in forms for form in pair[::-1]], wanted, prefix, path))
    fit = _take_one(fits, path)
    if fit.found.key or fit.prefix:
        where = _describe(fit.found) + (f", prefix {fit.prefix!r}" if fit.prefix else "")
        log.info("  model.weights: taken from %s of %s", where, path.name)
    for kind in sorted(set(fit.found.kinds.values())):
        names = [name for name in fit.given if fit.found.kinds.get(fit.prefix + name) == kind]
        log.info("  model.weights: computed from the parts of %s, as in evaluation: %s", kind, _shorten(names))
    if fit.foreign:
        log.info("  model.weights: %s holds %s beside the network", path.name, _shorten(fit.foreign))
    try:
        network.load_state_dict(fit.given, strict=False)
    except RuntimeError as err:  # tensors that are sparse, quantised or on a device of their own
        raise CheckpointError(
            f"model.weights: {path} cannot be put into the architecture ({one_line(err)[:160]}); "
            "save dense floating-point tensors"
        ) from None


def _choose(found: Sequence[StateDict], keys: Sequence[str], path: Path) -> list[StateDict]:
    by_key = {s.key or ROOT: s for s in found}
    for key in keys:
        if key == AUTO:
            break
        if key in by_key:
            return [by_key[key]]
    else:
        if keys:
            raise CheckpointError(
                f"model.weights_key: found {', '.join(map(repr, keys))}, but {path} holds {_list_candidates(found)}; "
                f"name one of these, or add {AUTO!r}"
            )
    return list(found)


def _find_fits(found: StateDict, wanted: Mapping[str, torch.Tensor], prefix: str | None) -> list[_Fit]:
    """Prefixes below which the state dict has every tensor of the network, in its shape, and nothing else inside."""
    given = plain_names(found.tensors)
    counts = count_prefixes(given, wanted)
    fits = []
    for start in sorted(counts) if prefix is None else [_with_dot(prefix)]:
        own = {key: given[start + key] for key in wanted if start + key in given}
        if any(key not in own and not is_optional(key, wanted) for key in wanted):
            continue
        foreign = [key for key in given if not key.startswith(start) or key.removeprefix(start) not in wanted]
        if not _list_misshaped(own, wanted) and not list_inner(foreign, start, wanted):
            fits.append(_Fit(found, start, own, tuple(foreign)))
    return fits


def _put_together(found: StateDict, wanted: Mapping[str, torch.Tensor]) -> StateDict:
    """With weights in the place of their parts, in the precision of the network; the same where there are none."""
    import torch

    dtype = next((tensor.dtype for tensor in wanted.values() if tensor.is_floating_point()), torch.float32)
    whole = compute_weights(plain_names(found.tensors), dtype)
    if not whole.kinds and not whole.unclear:
        return found
    return StateDict(found.key, whole.tensors, found.about, whole.kinds, whole.unclear)


def plain_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without what torch.compile puts into names, at whatever place."""
    return {key.replace(_COMPILED, ""): value for key, value in tensors.items()}


def count_prefixes(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, int]:
    """How many of the network's names stand below each prefix."""
    counts: dict[str, int] = {}
    for key in given:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                prefix = _with_dot(".".join(parts[:start]))
                counts[prefix] = counts.get(prefix, 0) + 1
    return counts


def _list_misshaped(own: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> list[str]:
    return [key for key in wanted if key in own and own[key].shape != wanted[key].shape]


def list_inner(keys: Sequence[str], prefix: str, wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Of foreign keys, those inside parts that the network has: with them it would be another network."""
    names = [key.split(".") for key in wanted]
    shared = 0  # a wrapper's name stands before all, and says nothing
    while names and all(len(n) > shared + 1 and n[shared] == names[0][shared] for n in names):
        shared += 1
    parts = {tuple(n[: shared + 1]) for n in names}
    own = [key for key in keys if key.startswith(prefix) and not key.endswith("num_batches_tracked")]
    return [key for key in own if tuple(key.removeprefix(prefix).split(".")[: shared + 1]) in parts]


def _pair_by_order(found: StateDict, wanted: Mapping[str, torch.Tensor]) -> _Fit | None:
    if found.tensors.keys() & wanted.keys() or len(found.tensors) != len(wanted):
        return None
    given = dict(zip(wanted, found.tensors.values(), strict=True))
    return None if any(given[k].shape != wanted[k].shape for k in wanted) else _Fit(found, "", given, ())


def _take_one(fits: Sequence[_Fit], path: Path) -> _Fit:
    """The only one, or one of several that are the same.

    Raises:
        UserError: they differ.
    """
    fits = [fit for fit in fits if not _is_average_in_use(fit, fits)]
    if all(_is_same(fit, fits[0]) for fit in fits[1:]):
        return fits[0]
    if len({fit.found.key for fit in fits}) > 1:
        field = "weights_key"
        shown = ", ".join(_describe(fit.found) for fit in {fit.found.key: fit for fit in fits}.values())
    else:
        field, shown = "weights_prefix", ", ".join(repr(fit.prefix) for fit in fits)
    raise AmbiguousWeightsError(
        f"model.{field}: {path} holds {len(fits)} networks that fit and differ: {shown[:_MAX_LISTED_CHARS]}; set "
        f"model.{field} to the one to audit"
    )


def _is_same(fit: _Fit, other: _Fit, names: Sequence[str] | None = None) -> bool:
    import torch

    keys = list(other.given) if names is None else names
    return fit.given.keys() >= set(keys) and all(torch.equal(fit.given[key], other.given[key]) for key in keys)


def _is_average_in_use(fit: _Fit, fits: Sequence[_Fit]) -> bool:
    """Whether it is an average of Lightning's SWA that `state_dict` has too, there with batch statistics of its own."""
    if not fit.found.key.endswith(_SWA_AVERAGE):
        return False
    names = [key for key in fit.given if not key.endswith(_BATCH_STATISTICS)]
    return any(_is_same(fit, other, names) for other in fits if not other.found.key.endswith(_SWA_AVERAGE))


@dataclass(frozen=True)
class _Faults:
    """What keeps a state dict from fitting."""

    key: str
    num_right: int
    text: str
    advice: str


def _explain_misfit(
    candidates: Sequence[StateDict], wanted: Mapping[str, torch.Tensor], prefix: str | None, path: Path
) -> str:
    """The faults of the state dict that comes nearest."""
    faults = max((_list_faults(found, wanted, prefix) for found in candidates), key=lambda f: f.num_right)
    where = f" under {faults.key!r}" if faults.key else ""
    advice = faults.advice
    if is_shard_name(path.name):
        advice = f"it is one of several shards: give their index (*{INDEX_SUFFIX}) or their folder"
    return f"model.weights: {path}{where} does not fit the architecture: {faults.text}; {advice}"


def _list_faults(found: StateDict, wanted: Mapping[str, torch.Tensor], prefix: str | None) -> _Faults:
    given = plain_names(found.tensors)
    counts = count_prefixes(given, wanted)
    nearest = max(sorted(counts), key=lambda p: counts[p]) if counts else ""
    start = nearest if prefix is None else _with_dot(prefix)
    own = {key.removeprefix(start): value for key, value in given.items() if key.startswith(start)}
    missing = [key for key in wanted if key not in own and not is_optional(key, wanted)]
    misshaped = _list_misshaped(own, wanted)
    foreign = [key for key in own if key not in wanted]
    parts = [
        (missing, "missing"),
        (foreign if missing else list_inner(foreign, "", wanted), "unexpected"),
        ([f"{k} {tuple(own[k].shape)} instead of {tuple(wanted[k].shape)}" for k in misshaped], "of another shape"),
    ]
    text = "; ".join(f"{len(names)} {what} ({_shorten(names, ', ...')})" for names, what in parts if names)
    num_right = sum(key in own and own[key].shape == wanted[key].shape for key in wanted)
    advice = _advise(own, wanted, missing, misshaped)
    if missing and _has_numbers_for_names(given, wanted):
        advice = _NUMBERED
    unclear = [found.unclear[start + key] for key in missing if start + key in found.unclear]
    return _Faults(found.key, num_right, text, unclear[0] if unclear else advice)


def _has_numbers_for_names(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the network's parts are there, by the names inside them, under numbers instead of their own names."""
    parts = {key.partition(".")[0] for key in wanted}
    tails = {key.partition(".")[2] for key in wanted if key.count(".") > 1}

    def is_numbered(key: str) -> bool:
        names = key.split(".")
        return any(
            name.isdigit() and ".".join(names[i + 1 :]) in tails and not parts & set(names[:i])
            for i, name in enumerate(names)
        )

    return 2 * sum(map(is_numbered, given)) >= len(wanted)


def _advise(
    own: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    missing: Sequence[str],
    misshaped: Sequence[str],
) -> str:
    """What to set: another number of classes where only the rows of one module differ, else the architecture."""
    sizes = {int(own[key].shape[0]) for key in misshaped if own[key].ndim}
    is_head = all(own[key].shape[1:] == wanted[key].shape[1:] for key in misshaped)
    if not missing and is_head and len(sizes) == len({key.rpartition(".")[0] for key in misshaped}) == 1:
        return f"its classifier head is of another size: set model.num_classes={sizes.pop()}"
    if missing and len({key.rpartition(".")[0] for key in missing}) == 1 and missing[-1] == list(wanted)[-1]:
        return "where it has no classifier head, set model.num_classes=0"
    return "set model.arch and model.num_classes to what the weights were trained with"


def is_optional(key: str, wanted: Mapping[str, torch.Tensor]) -> bool:
    """The counter that torch before 0.4.1 did not write, and the head of a network without classes."""
    return key.endswith("num_batches_tracked") or wanted[key].numel() == 0


def _with_dot(prefix: str) -> str:
    return prefix if not prefix or prefix.endswith(".") else f"{prefix}."


def _describe(found: StateDict) -> str:
    key = printable(found.key or ROOT)
    return f"{key} ({found.about})" if found.about else key


def _list_candidates(found: Sequence[StateDict]) -> str:
    return ", ".join(map(_describe, found))[:_MAX_LISTED_CHARS]


def _shorten(names: Sequence[str], more: str = "") -> str:
    shown = [printable(name)[:_MAX_SHOWN_CHARS] for name in names[:_NUM_SHOWN]]
    rest = len(names) - len(shown)
    return ", ".join(shown) + ((more or f" and {rest} more") if rest else "")
