"""The producers, each with the versions that its files are made with."""

from __future__ import annotations

from benchmarks.environments import Tool

PRODUCERS = (
    Tool("torchvision", "torchvision"),
    Tool("timm", "timm", ("timm==1.0.31",)),
    Tool("lightning", "lightning", ("lightning==2.6.6", "omegaconf==2.4.0")),
    Tool("huggingface", "transformers", ("transformers==5.24.0", "accelerate==1.15.0", "timm==1.0.31")),
    Tool("fastai", "fastai", ("fastai==2.8.12", "timm==1.0.31")),
    Tool("mmengine", "mmengine", ("mmengine==0.10.7",)),
    Tool(  # it allows torch before 2.7.1 only, and runs on this one
        "composer",
        "mosaicml",
        (
            "torchmetrics==1.9.0",
            "torch-optimizer==0.3.0",
            "tabulate==0.10.0",
            "py-cpuinfo==9.0.0",
            "mosaicml-cli==0.8.3",
        ),
        ("mosaicml==0.32.1",),
    ),
    Tool("accelerate", "accelerate", ("accelerate==1.15.0",)),
    Tool("ignite", "pytorch-ignite", ("pytorch-ignite==0.5.5",)),
    Tool("monai", "monai", ("monai==1.6.1", "pytorch-ignite==0.5.5")),
    Tool("skorch", "skorch", ("skorch==1.4.0",)),
    Tool("lightly", "lightly", ("lightly==1.6.0", "pytorch-lightning==2.6.6")),
    Tool("self_supervised", "torch"),
    Tool("ultralytics", "ultralytics", ("ultralytics==8.4.190",)),
    Tool("torch", "torch"),
    Tool("distributed", "torch"),
    Tool("deepspeed", "deepspeed", ("deepspeed==0.19.8",), builders=("wheel", "ninja")),
    Tool("onnx", "onnx", ("onnx==1.23.2", "onnxscript==0.7.2")),
    Tool("keras", "keras", ("keras==3.15.1",)),
    Tool("mlflow", "mlflow", ("lightning==2.6.6",)),
)
