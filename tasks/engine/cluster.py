"""The Dask cluster that statistics, and if asked for extraction, run on: a local one, or a scheduler by address."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from lavise.configs.errors import UserError
from lavise.configs.schema import StatisticsSettings
from lavise.storage.state.progress import Progress, no_progress
from lavise.storage.state.text import one_line

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger("lavise")
_ANSWER_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
_ASK_SECONDS = 30.0
_STARTS = 3
_AHEAD = 2  # items for each thread of a worker: one that it computes and one that waits


class StatisticsCluster:
    """Starts when it is first used, so that a run whose statistics are all cached pays nothing.

    Use as a context manager; what it started is stopped on leaving.
    """

    def __init__(
        self, settings: StatisticsSettings, progress: Progress = no_progress, setting: str = "statistics.scheduler"
    ) -> None:
        self._settings, self._progress, self._setting = settings, progress, setting
        self._client: Any = None
        self._cluster: Any = None

    def __enter__(self) -> StatisticsCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def map(self, title: str, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """All results of `stream` at once: for those that are small."""
        return list(self.stream(title, function, items))

    def stream(
        self,
        title: str,
        function: Callable[[T], R],
        items: Sequence[T],
        resources: Mapping[str, float] | None = None,
        shown: bool = True,
    ) -> Iterator[R]:
        """function(item) for every item on the workers; results in the order of the items, one after the other.

        A few items more than there are workers are given out ahead of the result that is taken, and a result is
        forgotten once it was taken: however many items there are, few results exist at a time. Where the reader stops
        early, what was given out is forgotten with its futures.

        `function` must be importable by the workers, pure, and give the same bits wherever it runs.

        Args:
            resources: that a worker has to offer, and what of them an item takes.
            shown: with progress of its own.
        """
        try:
            with self._progress(title, len(items)) if shown else no_progress(title, len(items)) as bar:
                for result in self._stream(function, items, resources):
                    bar.advance()
                    yield result
                    del result
        except Exception:
            # A lost connection or worker heals only with a new client; what is broken must not be used again.
            self._close()
            raise

    def require_resource(self, name: str, setting: str) -> None:
        """Some worker offers the resource: what asks for one that nobody has would wait for ever.

        Raises:
            UserError: none does.
        """
        workers = self._start().scheduler_info(n_workers=-1)["workers"]
        if not any(worker["resources"].get(name, 0) >= 1 for worker in workers.values()):
            raise UserError(
                f"{setting}: device is cuda, and of {len(workers)} workers none offers the resource {name}; start one "
                f"for each GPU with `dask worker ADDRESS --nthreads 1 --resources {name}=1`, or set device: cpu or "
                f"{setting}: here"
            )

    def _stream(
        self, function: Callable[[T], R], items: Sequence[T], resources: Mapping[str, float] | None
    ) -> Iterator[R]:
        client = self._start()
        ahead: deque[Any] = deque()
        given = 0
        for _ in range(len(items)):
            # Asked anew each time, since workers come and go.
            most = _AHEAD * max(sum(client.nthreads().values()), 1)
            while given < len(items) and len(ahead) < most:
                ahead.append(client.submit(function, items[given], pure=False, resources=resources))
                given += 1
            result: R = self._wait(ahead.popleft(), resources)
            yield result
            del result

    def _wait(self, future: Any, resources: Mapping[str, float] | None) -> Any:
        """Its result; says so where nobody is left who offers what it asks for."""
        while True:
            try:
                return future.result(timeout=_ASK_SECONDS if resources else None)
            except TimeoutError:
                if future.done():  # meanwhile; or it is the task's own, of a file system that does not answer
                    return future.result()
                for name in resources or ():
                    self.require_resource(name, self._setting)

    def _start(self) -> Any:
        if self._client is not None:
            return self._client
        address = self._settings.scheduler
        # Read when distributed is first imported, here and in the workers: no chatter about reconnecting workers, and
        # no stack of a heartbeat that found the connection closed; what a task raises comes back with its result.
        os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
        from distributed import Client

        from lavise.tasks.engine.worker_memory import KeepsFreedMemory

        if address:
            _require_scheduler(address, self._setting)
            self._client = Client(address, timeout="30s", set_as_default=False)
            return self._client
        log.info("  starting %d workers", self._settings.num_workers)
        self._cluster = self._start_workers()
        self._client = Client(self._cluster, set_as_default=False)
        self._client.register_plugin(KeepsFreedMemory())
        return self._client

    def _start_workers(self) -> Any:
        """Once more where one of them ends before it is ready: later, Dask replaces it by itself."""
        from distributed import LocalCluster

        left = _STARTS
        while True:
            try:
                with _environment_restored():
                    return LocalCluster(
                        n_workers=self._settings.num_workers,
                        threads_per_worker=1,
                        processes=True,
                        dashboard_address="127.0.0.1:0",  # with None it asks for port 8787, and warns if that is taken
                        silence_logs=logging.CRITICAL,
                    )
            except RuntimeError as err:  # what it had started, it has closed
                left -= 1
                if not left:
                    raise
                log.warning("  the workers did not start (%s); trying again", one_line(err))

    def _close(self) -> None:
        for opened in (self._client, self._cluster):
            if opened is not None:
                opened.close()
        if self._cluster is not None:
            _forget_handlers()
        self._client = self._cluster = None


def _forget_handlers() -> None:
    """Let go of schedulers that were closed: distributed (2026.8.0) remembers the handlers of each, and with them the
    scheduler and all that it has logged, for as long as the process lives."""
    from distributed import core

    known: Any = getattr(core, "_expects_comm", None)
    if hasattr(known, "cache_clear"):
        known.cache_clear()


@contextmanager
def _environment_restored() -> Iterator[None]:
    """Dask sets what its workers are to inherit (OMP_NUM_THREADS=1 and more) in this process, for ever: whatever is
    started here later would compute with one thread, and other bits."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _require_scheduler(address: str, setting: str) -> None:
    """Asked first what it is: a Client that fails to connect leaves threads behind that wait for ever, and one that is
    connected to something else waits with them.

    Raises:
        UserError: no scheduler answers at that address.
    """
    found = re.fullmatch(r"(?:tcp|tls)://(\[[0-9a-fA-F:]+\]|[^:/\[\]]+):(\d{1,5})", address)
    reason = "no such address"
    if found:
        try:
            with socket.create_connection((found[1].strip("[]"), int(found[2])), _CONNECT_SECONDS):
                pass
            with ThreadPoolExecutor(1) as apart:  # the caller's thread may have a loop of its own
                kind = apart.submit(asyncio.run, _ask_kind(address)).result()
            if kind == "Scheduler":
                return
            reason = f"it is a {kind}"
        except TimeoutError:
            reason = "it does not speak as a scheduler does; its dashboard's port?"
        except Exception as err:  # noqa: BLE001 - whatever Dask, TLS and the system raise, of a setting
            reason = one_line(err)[:200]
    tls = "; tls:// needs distributed.comm.tls in Dask's configuration" if address.startswith("tls://") else ""
    raise UserError(
        f"{setting}: found {address!r}, which does not answer as it should ({reason}); allowed: tcp://HOST:PORT or "
        f"tls://HOST:PORT of a Dask scheduler; start it, or leave it empty for a local cluster{tls}"
    )


async def _ask_kind(address: str) -> str:
    """What answers there says that it is: `Scheduler`, `Worker`, `Nanny`."""
    from distributed.core import rpc

    async def ask() -> str:
        async with rpc(address) as asked:
            return str((await asked.identity())["type"])

    return await asyncio.wait_for(ask(), _ANSWER_SECONDS)
