"""Dask for the tests: one thread in this process behind an address, and one real local cluster of two processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lavise.configs.schema import StatisticsSettings
from lavise.tasks.engine.cluster import StatisticsCluster


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> Iterator[None]:
    """Tensors are tiny here; threads that wait for each other on a busy machine cost seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def scheduler_address() -> Iterator[str]:
    """A scheduler with one worker that somebody else has started."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
    ) as running:
        yield running.scheduler_address


@pytest.fixture(scope="session")
def cluster(scheduler_address: str) -> Iterator[StatisticsCluster]:
    """Statistics on that one worker."""
    with StatisticsCluster(StatisticsSettings(scheduler=scheduler_address)) as running:
        yield running


@pytest.fixture(scope="session")
def process_cluster() -> Iterator[StatisticsCluster]:
    """The default: a local cluster, here of two processes; the only one of the whole set."""
    with StatisticsCluster(StatisticsSettings(num_workers=2)) as running:
        yield running
