"""How a stage computes, whatever it is: one value instead of three parameters."""

from __future__ import annotations

from dataclasses import dataclass

from lavise.storage.state.progress import Progress, no_progress


@dataclass(frozen=True)
class Computing:
    """Seed of whatever is drawn, device (cpu or cuda), and how progress is shown."""

    seed: int = 0
    device: str = "cpu"
    progress: Progress = no_progress

    def describe(self) -> dict[str, int | str]:
        """What floating-point results and draws depend on besides their inputs."""
        return {"seed": self.seed, **describe_arithmetic(self.device)}


def describe_arithmetic(device: str) -> dict[str, str]:
    """What floating-point results depend on besides their inputs."""
    import torch

    return {"device": device, "torch": torch.__version__}
