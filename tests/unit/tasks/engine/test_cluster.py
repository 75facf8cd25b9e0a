"""The Dask cluster: lazy start, order of results, errors, and whose cluster is stopped."""

from __future__ import annotations

import errno
import gc
import math
import operator
import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from lavise.configs.errors import UserError
from lavise.configs.schema import StatisticsSettings
from lavise.storage.state.progress import Bar
from lavise.tasks.engine.cluster import StatisticsCluster


class CountingBar:
    def __init__(self) -> None:
        self.steps = 0

    def advance(self, steps: int = 1) -> None:
        self.steps += steps


class Recorder:
    """Remembers titles and totals."""

    def __init__(self) -> None:
        self.bars: list[tuple[str, int, CountingBar]] = []

    def __call__(self, title: str, total: int) -> AbstractContextManager[Bar]:
        return self._open(title, total)

    @contextmanager
    def _open(self, title: str, total: int) -> Iterator[Bar]:
        bar = CountingBar()
        self.bars.append((title, total, bar))
        yield bar


def test_results_come_in_the_order_of_the_items(process_cluster: StatisticsCluster) -> None:
    items = [float(n) for n in (9, 1, 16, 1, 0, 4)]
    assert process_cluster.map("roots", math.sqrt, items) == [3, 1, 4, 1, 0, 2]


def test_local_workers_are_other_processes(process_cluster: StatisticsCluster) -> None:
    pids = process_cluster.map("pids", _pid_of, list(range(20)))
    assert os.getpid() not in pids
    assert 1 <= len(set(pids)) <= 2


def _pid_of(item: int) -> int:
    return os.getpid()


def test_what_workers_inherit_does_not_stay_with_this_process() -> None:
    before = dict(os.environ)
    with StatisticsCluster(StatisticsSettings(num_workers=1)) as cluster:
        assert cluster.map("threads", os.getenv, ["OMP_NUM_THREADS"]) == ["1"]
    added = {"DASK_LOGGING__DISTRIBUTED": os.environ["DASK_LOGGING__DISTRIBUTED"]}
    assert dict(os.environ) == before | added


def test_equal_items_are_each_computed(cluster: StatisticsCluster) -> None:
    assert cluster.map("signs", operator.neg, [2, 2, 2]) == [-2, -2, -2]


def note_and_wait(folder: Path, item: tuple[int, float]) -> tuple[int, int]:
    """Leave a trace of having been called, wait so many seconds."""
    number, seconds = item
    (folder / str(number)).touch()
    time.sleep(seconds)
    return number, os.getpid()


def test_stream_gives_out_few_items_ahead_of_its_reader(tmp_path: Path, process_cluster: StatisticsCluster) -> None:
    items = [(n, 0.0) for n in range(40)]
    results = process_cluster.stream("notes", partial(note_and_wait, tmp_path), items)
    assert next(results)[0] == 0
    time.sleep(0.5)  # were they all given out, they would be done by now
    assert 1 <= len(list(tmp_path.iterdir())) <= 4
    assert [number for number, _ in results] == list(range(1, 40))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_stream_keeps_the_order_whatever_is_done_first(tmp_path: Path, num_workers: int) -> None:
    items = [(n, 0.15 if n % 3 == 0 else 0.0) for n in range(9)]
    with StatisticsCluster(StatisticsSettings(num_workers=num_workers)) as running:
        found = list(running.stream("notes", partial(note_and_wait, tmp_path), items))
    assert [number for number, _ in found] == list(range(9))
    assert len({pid for _, pid in found}) <= num_workers


def die_once(folder: Path, number: int) -> int:
    """The worker that is the first to get the item 3 is killed."""
    if number == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_stream_goes_on_after_a_killed_worker(tmp_path: Path) -> None:
    """Also where results that nobody has taken died with it."""
    with StatisticsCluster(StatisticsSettings(num_workers=2)) as running:
        assert list(running.stream("numbers", partial(die_once, tmp_path), list(range(8)))) == list(range(8))
    assert (tmp_path / "died").exists()


def _kill_first_child(killed: list[int]) -> None:
    """The first process that this one starts, as soon as it is there."""
    own, end = psutil.Process(), time.monotonic() + 30
    before = {child.pid for child in own.children()}
    while not killed and time.monotonic() < end:
        for child in own.children():
            # Dask's workers are spawned; a process that keeps count of their semaphores may come first.
            if child.pid not in before and any("spawn_main" in part for part in child.cmdline()):
                child.kill()
                killed.append(child.pid)
                return
        time.sleep(0.002)


def test_workers_are_started_again_where_one_is_killed_before_it_is_ready(caplog: pytest.LogCaptureFixture) -> None:
    killed = list[int]()
    thread = threading.Thread(target=_kill_first_child, args=(killed,))
    with StatisticsCluster(StatisticsSettings(num_workers=1)) as started, caplog.at_level("WARNING", "lavise"):
        thread.start()
        assert started.map("roots", math.sqrt, [1.0, 4.0, 9.0]) == [1, 2, 3]
    thread.join()
    assert killed
    assert "the workers did not start (Nanny failed to start.); trying again" in caplog.text


def test_nothing_is_left_of_a_closed_cluster() -> None:
    """A process that audits a hundred checkpoints opens a hundred of them."""
    with StatisticsCluster(StatisticsSettings(num_workers=1)) as cluster:
        assert cluster.map("add", partial(operator.add, 1), [1]) == [2]
        own = weakref.ref(cluster._cluster.scheduler)
    del cluster
    for _ in range(50):  # its last connections end in their own time
        gc.collect()
        if own() is None:
            return
        time.sleep(0.1)
    raise AssertionError(gc.get_referrers(own()))


def test_reader_of_a_stream_may_stop(cluster: StatisticsCluster) -> None:
    results = cluster.stream("roots", math.sqrt, [4.0, 9.0, -1.0])
    assert next(results) == 2
    del results
    assert cluster.map("roots", math.sqrt, [16.0]) == [4]


def test_no_items_no_results(cluster: StatisticsCluster) -> None:
    assert cluster.map("nothing", operator.neg, []) == []


def test_an_error_on_a_worker_comes_back_as_it_is(cluster: StatisticsCluster) -> None:
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        cluster.map("roots", math.sqrt, [1.0, -1.0])
    assert cluster.map("roots", math.sqrt, [4.0]) == [2.0]


def test_progress_advances_once_per_item(scheduler_address: str) -> None:
    recorder = Recorder()
    with StatisticsCluster(StatisticsSettings(scheduler=scheduler_address), recorder) as running:
        running.map("signs", operator.neg, [1, 2, 3])
    (title, total, bar), *others = recorder.bars
    assert (title, total, bar.steps, others) == ("signs", 3, 3, [])


def test_leaving_does_not_stop_a_scheduler_of_others(scheduler_address: str) -> None:
    settings = StatisticsSettings(scheduler=scheduler_address)
    for _ in range(2):
        with StatisticsCluster(settings) as running:
            assert running.map("signs", operator.neg, [5]) == [-5]


def test_unused_cluster_starts_nothing() -> None:
    with StatisticsCluster(StatisticsSettings(scheduler="nowhere://never")) as running:
        found = vars(running)
    assert found["_client"] is None
    assert found["_cluster"] is None


# In a process of its own: the failed client must not be able to disturb the clusters of the other tests.
_UNREACHABLE = """
import operator
import time
import weakref

from distributed import LocalCluster

from lavise.configs.errors import UserError
from lavise.configs.schema import StatisticsSettings
from lavise.tasks.engine.cluster import StatisticsCluster

with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None) as own:
    with StatisticsCluster(StatisticsSettings(scheduler=own.scheduler_address)) as running:
        running.map("signs", operator.neg, [1])
        try:
            with StatisticsCluster(StatisticsSettings(scheduler="nowhere://never")) as other:
                other.map("signs", operator.neg, [1])
        except UserError as err:
            kept = err
            print(err, flush=True)
        if {go_on}:
            print(running.map("naps", time.sleep, [0.5, 0.1]), flush=True)
"""


def run_unreachable(go_on: bool) -> str:
    script = _UNREACHABLE.replace("{go_on}", str(go_on))
    root = Path(__file__).resolve().parents[4]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=12, check=True
    )
    return done.stdout


def test_address_that_cannot_be_reached_is_the_users_mistake() -> None:
    printed = run_unreachable(go_on=False)
    assert re.match(r"statistics\.scheduler: found 'nowhere://never', .*; .*leave it empty", printed)


def test_unreachable_scheduler_does_not_stop_another_cluster() -> None:
    assert run_unreachable(go_on=True).splitlines()[-1] == "[None, None]"


@pytest.mark.parametrize("resources", [None, {"lavise": 1.0}])
def test_what_a_task_says_of_a_server_that_does_not_answer_is_raised(
    own_cluster: Any, resources: dict[str, float] | None
) -> None:
    """ETIMEDOUT is a TimeoutError, as is that of waiting for a result."""
    settings = StatisticsSettings(scheduler=own_cluster.scheduler_address)
    with StatisticsCluster(settings) as running, pytest.raises(TimeoutError, match="file server"):
        list(running.stream("read", _fail_as_nfs_does, [1], resources))


def test_something_else_at_the_address_of_a_scheduler(own_cluster: Any) -> None:
    """Its dashboard's port is an easy slip; a Client would wait there for ever."""
    port = own_cluster.scheduler.http_server.port
    for address, reason in (
        (f"tcp://127.0.0.1:{port}", "dashboard"),
        (next(iter(own_cluster.workers.values())).worker_address, "it is a Worker"),
        (own_cluster.scheduler_address.replace("tcp://", "tls://"), "distributed.comm.tls"),
    ):
        expected = rf"^statistics\.scheduler: found '{address}', .*{reason}"
        with (
            StatisticsCluster(StatisticsSettings(scheduler=address)) as running,
            pytest.raises(UserError, match=expected) as caught,
        ):
            running.map("roots", math.sqrt, [4.0])
        assert "\n" not in str(caught.value)


def _fail_as_nfs_does(_: int) -> None:
    raise OSError(errno.ETIMEDOUT, "Connection timed out", "file server")


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", resources={"lavise": 1}
    ) as cluster:
        yield cluster
