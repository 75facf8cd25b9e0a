"""Rows of the table: which file of which producer goes into which network, and how its question is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from benchmarks.producers.shared import make_small_network


@dataclass(frozen=True)
class Row:
    """A file that is loaded.

    Attributes:
        producer: its name.
        file: below the producer's folder; may be a pattern that fits one.
        what: it is, for people.
        build: the network that it belongs to.
        answers: settings of the model that are tried one by one where lavise asks.
        arch: a folder of transformers below the producer's, in place of `build`.
    """

    producer: str
    file: str
    what: str
    build: Callable[[], nn.Module] = field(default=lambda: _build_torchvision())
    answers: tuple[dict[str, str], ...] = ()
    arch: str = ""


def _build_torchvision(name: str = "shufflenet_v2_x0_5", num_classes: int = 3) -> nn.Module:
    import torchvision

    network: nn.Module = torchvision.models.get_model(name, num_classes=num_classes)
    return network


def _build_headless() -> nn.Module:
    network = _build_torchvision()
    network.fc = nn.Identity()
    return network


def _build_timm(num_classes: int = 3) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model("test_resnet", num_classes=num_classes)
    return network


def _build_timm_body() -> nn.Module:
    return _build_timm(0)


def _build_resnet() -> nn.Module:
    return _build_torchvision("resnet18")


def _build_convnext() -> nn.Module:
    return _build_torchvision("convnext_tiny")


def _keys(*keys: str) -> tuple[dict[str, str], ...]:
    return tuple({"weights_key": key} for key in keys)


def _prefixes(*prefixes: str) -> tuple[dict[str, str], ...]:
    return tuple({"weights_prefix": prefix} for prefix in prefixes)


def _of(producer: str, *rows: tuple[Any, ...]) -> tuple[Row, ...]:
    return tuple(Row(producer, *row) for row in rows)


def _own(file: str, what: str, folder: str = "") -> tuple[tuple[Any, ...], ...]:
    """Into the network that transformers itself builds from a folder."""
    return ((file, what, _build_torchvision, (), folder or file),)


_VISION = _build_torchvision
_SWA = _keys("state_dict", "callbacks.StochasticWeightAveraging.average_model_state")
_LIGHTNING_AVERAGES = _keys("state_dict", "current_model_state")

ROWS = (
    *_of(
        "torchvision",
        ("checkpoint.pth", "references/classification, with EMA", _VISION, _keys("model", "model_ema")),
        ("no_ema.pth", "the same without EMA"),
        ("swa.pth", "state dict of AveragedModel (SWA)"),
        ("example.pth.tar", "pytorch/examples: DataParallel under state_dict"),
    ),
    *_of(
        "timm",
        ("last.pth.tar", "CheckpointSaver, last", _build_timm, _keys("state_dict", "state_dict_ema")),
        ("model_best.pth.tar", "CheckpointSaver, best", _build_timm, _keys("state_dict", "state_dict_ema")),
        ("recovery-1-3.pth.tar", "CheckpointSaver, recovery", _build_timm, _keys("state_dict", "state_dict_ema")),
        ("compiled.pth", "state dict of a compiled network", _build_timm),
    ),
    *_of(
        "lightning",
        ("default/last.ckpt", "ModelCheckpoint"),
        ("hparams/last.ckpt", "OmegaConf, pathlib and numpy in hyper_parameters"),
        ("dictconfig/last.ckpt", "hyper_parameters that are a DictConfig"),
        ("compiled/last.ckpt", "a compiled network"),
        ("class_in_hparams/last.ckpt", "functools.partial of an optimizer in hyper_parameters"),
        ("net_in_hparams/last.ckpt", "the network itself in hyper_parameters"),
        ("swa/epoch=1.ckpt", "StochasticWeightAveraging, while it trains", _VISION, _SWA),
        ("swa/last.ckpt", "StochasticWeightAveraging, the last file", _VISION, _SWA),
        ("swa_no_validation/last.ckpt", "the same, trained without validation", _VISION, _SWA),
        ("ema/epoch=1.ckpt", "EMAWeightAveraging", _VISION, _LIGHTNING_AVERAGES),
        ("ema/after_fit.ckpt", "EMAWeightAveraging, save_checkpoint after fit", _VISION, _LIGHTNING_AVERAGES),
        ("ema_weights_only/epoch=1.ckpt", "EMAWeightAveraging, ModelCheckpoint(save_weights_only=True)"),
        ("weight_averaging/epoch=1.ckpt", "WeightAveraging", _VISION, _LIGHTNING_AVERAGES),
    ),
    *_of(
        "huggingface",
        ("timm/checkpoint-2", "Trainer with TimmWrapper, the folder", _build_timm),
        ("timm_sharded", "the same in shards, the folder", _build_timm),
        ("timm_sharded/model.safetensors.index.json", "the same in shards, the index", _build_timm),
        ("timm_sharded/model-00001-of-*.safetensors", "one of the shards", _build_timm),
        ("pytorch_model.bin", "the same as .bin", _build_timm),
        ("timm/checkpoint-2/optimizer.pt", "beside the weights", _build_timm),
        ("timm/checkpoint-2/rng_state.pth", "beside the weights", _build_timm),
        ("timm/checkpoint-2/scheduler.pt", "beside the weights", _build_timm),
        ("timm/checkpoint-2/training_args.bin", "beside the weights", _build_timm),
        ("resnet/checkpoint-2", "transformers' ResNet into torchvision's", _build_resnet),
        ("convnext/checkpoint-2", "transformers' ConvNeXt into torchvision's", _build_convnext),
        *_own("resnet/checkpoint-2", "transformers' ResNet by model.arch=transformers:FOLDER"),
        *_own("convnext/checkpoint-2", "transformers' ConvNeXt by model.arch=transformers:FOLDER"),
        *_own("vit", "transformers' ViT by model.arch=transformers:FOLDER"),
        *_own("vit_state.pth", "the same, saved with torch.save, whose names are others", "vit"),
    ),
    *_of(
        "fastai",
        ("models/with_opt.pth", "Learner.save"),
        ("models/without_opt.pth", "Learner.save(with_opt=False)"),
        ("models/best.pth", "SaveModelCallback"),
        ("export.pkl", "Learner.export"),
        ("models/vision_learner.pth", "vision_learner with torchvision's network", _build_resnet),
        ("models/vision_learner_timm.pth", "vision_learner with timm's network", _build_timm),
        ("models/vision_learner_timm.pth", "the same into the network without a head", _build_timm_body),
    ),
    *_of(
        "mmengine",
        ("plain/epoch_2.pth", "CheckpointHook"),
        ("ema/epoch_2.pth", "with EMAHook", _VISION, _keys("state_dict", "ema_state_dict")),
        ("ema/best_accuracy_epoch_*.pth", "with EMAHook, the best", _VISION, _keys("state_dict", "ema_state_dict")),
        ("published/epoch_2-*.pth", "with EMAHook, published_keys"),
    ),
    *_of(
        "composer",
        ("plain/ep2-ba4-rank0.pt", "Trainer"),
        ("ema/ep1-ba2-rank0.pt", "with EMA, after the first epoch"),
        ("ema/ep2-ba4-rank0.pt", "with EMA, after the second epoch"),
        (
            "swa/ep1-ba2-rank0.pt",
            "with SWA, before it has ended",
            _VISION,
            _keys("state.model", "state.algorithms.0.1.swa_model"),
        ),
    ),
    *_of(
        "accelerate",
        ("state", "save_state, the folder"),
        ("state_bin", "save_state(safe_serialization=False), the folder"),
        ("model", "save_model in shards, the folder"),
        ("model_bin", "save_model(safe_serialization=False) in shards, the folder"),
        ("state/random_states_0.pkl", "beside the weights"),
    ),
    *_of(
        "ignite",
        ("several/checkpoint_6.pt", "Checkpoint of several objects", _VISION, _keys("model", "ema_model")),
        ("one/model_6.pt", "Checkpoint of one object"),
    ),
    *_of(
        "monai",
        ("several/checkpoint_final_iteration=2.pt", "CheckpointSaver of several objects"),
        ("one/net_final_iteration=2.pt", "CheckpointSaver of one object"),
        ("own_resnet18.pt", "MONAI's resnet18 into torchvision's", _build_resnet),
    ),
    *_of(
        "skorch",
        ("params.pt", "save_params"),
        ("params.safetensors", "save_params(use_safetensors=True)"),
        ("callback/params.pt", "Checkpoint"),
        ("callback/criterion.pt", "beside the weights"),
        ("whole.pkl", "pickle.dump of the estimator"),
    ),
    *_of("lightly", ("byol.ckpt", "BYOL, layers in a Sequential", _build_headless)),
    *_of(
        "self_supervised",
        ("dino.pth", "names of DINO", _build_headless, _keys("student", "teacher")),
        ("moco.pth.tar", "names of MoCo", _build_headless, _prefixes("module.encoder_q", "module.encoder_k")),
        (
            "moco_v3.pth.tar",
            "names of MoCo v3",
            _build_headless,
            _prefixes("module.base_encoder", "module.momentum_encoder"),
        ),
        ("simclr.pth.tar", "names of SimCLR", _build_headless),
    ),
    *_of(
        "ultralytics",
        ("run/weights/best.pt", "after training"),
        ("run/weights/epoch0.pt", "during training"),
    ),
    *_of(
        "torch",
        ("state.pth", "torch.save of a state dict"),
        ("legacy.pth", "the same as before torch 1.6"),
        ("protocol4.pth", "the same with pickle_protocol=4"),
        ("pickled.pkl", "the same with pickle.dump"),
        ("meta.pth", "state dict of the meta device"),
        ("pruned.pth", "with torch.nn.utils.prune"),
        ("dynamic.pth", "quantize_dynamic"),
        ("static.pth", "quantised statically"),
        ("whole.pt", "torch.save of the network"),
        ("whole_average.pt", "torch.save of AveragedModel"),
        ("whole_in_dict.pt", "torch.save of a dict with the network"),
        ("scripted.pt", "TorchScript, script"),
        ("traced.pt", "TorchScript, trace"),
        ("exported.pt2", "torch.export.save"),
        ("distributed", "torch.distributed.checkpoint, the folder"),
        ("weight_norm.pth", "with parametrizations.weight_norm"),
        ("old_weight_norm.pth", "with the older torch.nn.utils.weight_norm"),
        ("spectral_norm.pth", "with parametrizations.spectral_norm"),
        ("old_spectral_norm.pth", "with the older torch.nn.utils.spectral_norm"),
        ("orthogonal.pth", "with parametrizations.orthogonal"),
        ("cuda.pth", "a file whose storages are marked as of cuda:0"),
    ),
    *_of(
        "distributed",
        ("dcp", "dcp.save of the network and its optimizer, one process"),
        ("fsdp", "FSDP2 over two processes, dcp.save of its sharded state dict"),
    ),
    *_of(
        "deepspeed",
        ("zero_0/step", "without ZeRO, the folder", make_small_network),
        ("zero_1/step", "ZeRO-1, the folder", make_small_network),
        ("zero_2/step/mp_rank_00_model_states.pt", "ZeRO-2, the weights", make_small_network),
        ("zero_2/step/*_optim_states.pt", "beside the weights", make_small_network),
        ("zero_3/step/zero_pp_rank_0_mp_rank_00_model_states.pt", "ZeRO-3", make_small_network),
        ("zero_3/weights", "ZeRO-3 after zero_to_fp32.py, the folder", make_small_network),
    ),
    *_of("onnx", ("inside.onnx", "weights inside"), ("beside.onnx", "weights beside it")),
    *_of("keras", ("model.keras", "save"), ("model.h5", "save as HDF5"), ("model.weights.h5", "save_weights")),
    *_of(
        "mlflow",
        ("default/data/model.pt2", "save_model with input_example (pt2)"),
        ("pickle/data/model.pth", "save_model(serialization_format='pickle')"),
        ("artifacts/*/artifacts/state/state_dict.pth", "log_state_dict"),
        ("artifacts/*/artifacts/checkpoints/latest_checkpoint.pth", "autolog, the checkpoint"),
        ("artifacts/models/*/artifacts/data/model.pth", "autolog, the model"),
    ),
)
