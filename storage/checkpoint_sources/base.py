"""What a look at a source finds: checkpoints by content, and what could not be used, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavise.configs.errors import UserError
from lavise.storage.state.progress import Progress
from lavise.storage.state.text import printable
from lavise.storage.tracking_addresses import hide_credentials

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MAX_REASON_CHARS = 240
_NUM_SHOWN = 10


class CheckpointChangedError(Exception):
    """A checkpoint no longer has the content that it was found with; the next scan finds it anew."""


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint file whose content is known.

    Attributes:
        name: for people: the path below the folder, or `MODEL version 3`; printable, whatever the file is called.
        path: where its bytes are; of a registered version after `fetch_checkpoint`.
        sha256: of the file's bytes; of a checkpoint in shards, over those of its index and its shards.
        shards: of a checkpoint in several files, whose index, or list of tensors, `path` is.
        origin: of a registered version: artifact location, and the file below it.
    """

    name: str
    path: Path
    sha256: str
    origin: tuple[str, str] | None = field(default=None, repr=False, compare=False)
    shards: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Scan:
    """What a source holds.

    Attributes:
        found: the oldest first, so that each checkpoint's predecessor is the one before it. The same content under
            two names is listed twice.
        waiting: names of those that are still being written or registered.
        unusable: names and reasons.
        skipped: names of files beside checkpoints that hold no network: optimizers, random states, settings.
        num_other: files whose endings no weights have.
    """

    found: tuple[FoundCheckpoint, ...]
    waiting: tuple[str, ...]
    unusable: tuple[tuple[str, str], ...]
    skipped: tuple[str, ...] = ()
    num_other: int = 0


OpenRegistry = Callable[[], "MlflowClient | None"]


@dataclass(frozen=True)
class Looking:
    """What a look at a source has at hand.

    Attributes:
        open_registry: a client of the MLflow registry, for a source that needs one; None where there is no registry.
        cache: where files that had to be fetched are kept, and what was learned about them.
        now: seconds since the epoch.
    """

    open_registry: OpenRegistry
    cache: Path
    now: float
    progress: Progress


SCANNERS: dict[str, Callable[[Any, Looking], Scan]] = {}
"""By the `kind` of a source's settings; each registers itself where it is written. Raises UserError."""


class UnusableError(Exception):
    """What stands where a checkpoint is wanted is none; the message says why."""


def shorten(names: list[str]) -> str:
    return ", ".join(names[:_NUM_SHOWN]) + (", ..." if len(names) > _NUM_SHOWN else "")


def describe_error(error: Exception) -> str:
    """One line, printable, of bounded length."""
    if isinstance(error, UserError | UnusableError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = f"{type(error).__name__}: {error}"
    return printable(hide_credentials(" ".join(text.split())))[:MAX_REASON_CHARS]
