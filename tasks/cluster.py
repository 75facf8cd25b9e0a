"""The Dask cluster that statistics run on: a local one by default, an existing scheduler by address."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from configs.errors import UserError
from configs.schema import StatisticsSettings
from storage.progress import Progress, no_progress

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger("lavise")


class StatisticsCluster:
    """Starts when it is first used, so that a run whose statistics are all cached pays nothing.

    Use as a context manager; what it started is stopped on leaving.
    """

    def __init__(self, settings: StatisticsSettings, progress: Progress = no_progress) -> None:
        self._settings, self._progress = settings, progress
        self._client: Any = None
        self._cluster: Any = None

    def __enter__(self) -> StatisticsCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in (self._client, self._cluster):
            if opened is not None:
                opened.close()
        self._client = self._cluster = None

    def map(self, title: str, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """function(item) for every item on the workers; results in the order of the items.

        `function` must be importable by the workers, pure, and give the same bits wherever it runs.
        """
        from distributed import as_completed

        client = self._start()
        futures = client.map(function, items, pure=False)
        with self._progress(title, len(futures)) as bar:
            for _ in as_completed(futures, loop=client.loop):
                bar.advance()
        results: list[R] = client.gather(futures)
        return results

    def _start(self) -> Any:
        if self._client is not None:
            return self._client
        # Read when distributed is imported, here and in the workers: no chatter about reconnecting workers.
        os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "error")
        from distributed import Client, LocalCluster

        address = self._settings.scheduler
        if address:
            try:
                self._client = Client(address, timeout="15s", set_as_default=False)
            except (OSError, ValueError) as err:
                raise UserError(
                    f"statistics.scheduler: found {address!r}, which does not answer "
                    f"({' '.join(str(err).split())[:120]}); "
                    "start that scheduler, or leave it empty for a local cluster"
                ) from None
            return self._client
        log.info("  starting %d statistics workers", self._settings.num_workers)
        self._cluster = LocalCluster(
            n_workers=self._settings.num_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        )
        self._client = Client(self._cluster, set_as_default=False)
        return self._client
