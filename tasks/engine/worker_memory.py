"""What a local worker does before its first task. Imported only where a cluster starts: distributed is slow to load."""

from __future__ import annotations

from typing import Any

from distributed import WorkerPlugin

from lavise.storage.state.memory import keep_freed_memory


class KeepsFreedMemory(WorkerPlugin):
    """Large arrays of a task come from memory that those of the one before it had (Dask sets the opposite)."""

    name = "lavise-memory"

    def setup(self, worker: Any) -> None:
        """Runs in the worker, also in one that takes the place of another."""
        keep_freed_memory()
