"""One look at a source of checkpoints, whichever kind it is of, and fetching what it found."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from lavise.configs.errors import UserError
from lavise.configs.sources import CheckpointSource
from lavise.storage import checkpoint_sources
from lavise.storage.checkpoint_sources.base import (
    SCANNERS,
    CheckpointChangedError,
    FoundCheckpoint,
    Looking,
    OpenRegistry,
    Scan,
    describe_error,
)
from lavise.storage.checkpoint_sources.registry import download_weights
from lavise.storage.checkpoint_sources.snapshots import has_content
from lavise.storage.state.progress import Progress, no_progress


def scan_checkpoints(
    source: CheckpointSource,
    open_registry: OpenRegistry,
    cache: Path,
    now: float,
    progress: Progress = no_progress,
) -> Scan:
    """Find the checkpoints of a source. One that cannot be used stops none of the others.

    Args:
        open_registry: asked by sources that need MLflow's registry; a folder needs none.
        cache: where files of registered versions are kept, and what each version resolved to. A version that is
            known is not downloaded again, even if its file was deleted from the cache since (see `fetch_checkpoint`).
        now: seconds since the epoch; by it a file counts as stable.

    Raises:
        UserError: no such folder, model or alias; says what there is.
    """
    for module in pkgutil.iter_modules(checkpoint_sources.__path__):
        importlib.import_module(f"{checkpoint_sources.__name__}.{module.name}")
    return SCANNERS[source.kind](source, Looking(open_registry, cache, now, progress))


def fetch_checkpoint(found: FoundCheckpoint, open_registry: OpenRegistry) -> FoundCheckpoint:
    """Download a registered version's file again, if it is no longer in the cache or damaged there.

    Raises:
        UserError: it cannot be downloaded.
        CheckpointChangedError: the registry now has other bytes for this version.
    """
    if found.origin is None or has_content(found.path, found.sha256):
        return found
    client = open_registry()
    if client is None:
        return found
    try:
        sha256 = download_weights(client, found.origin, found.path.parent)
    except Exception as err:  # noqa: BLE001 - MLflow and its artifact stores raise many types
        raise UserError(
            f"source.model: cannot download {found.name} ({describe_error(err)}); try again later"
        ) from None
    if sha256 != found.sha256:
        raise CheckpointChangedError(
            f"{found.name}: its file was changed after it was registered; register it as a new version"
        )
    return found
