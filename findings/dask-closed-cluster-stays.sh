#!/bin/sh
# distributed 2026.8.0, dask 2026.8.0 (Python 3.11 or later, CPU)
#
# Seen: the scheduler of a LocalCluster that was closed, with the client, stays in memory for as long as the process
# lives, and with it what it has logged: one for each cluster that the process has ever opened. What holds them is a
# cache without an end of which handlers expect a connection, in distributed's core: its keys are bound methods of each
# scheduler. Emptied, it lets all of them go.
#
# Expected by most: what was closed, and is named by nobody, is collected.
#
# Why it matters to whoever audits networks: a service that opens a cluster for the statistics of each checkpoint and
# closes it again grows with every one of them (about 1.7 MB an audit of a tiny network were seen: 183 MB in a hundred),
# and nothing names Dask as the cause.
#
# guess before it was looked for: that MLflow or matplotlib kept something; a closed cluster was not suspected.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check distributed==2026.8.0 dask==2026.8.0 2> pip.log
cat > run.py <<'PY'
import gc
import time

from distributed import Client, LocalCluster, core
from distributed.scheduler import Scheduler

CLUSTERS = 3


def count(wanted):
    """Schedulers in memory, as soon as there are so many, or after 5 s."""
    deadline = time.monotonic() + 5
    while True:
        gc.collect()
        found = sum(isinstance(thing, Scheduler) for thing in gc.get_objects())
        if found == wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def double(number):
    return 2 * number


if __name__ == "__main__":
    for _ in range(CLUSTERS):
        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
            assert client.gather(client.map(double, range(50))) == [2 * number for number in range(50)]
        del cluster, client
    closed = count(0)
    core._expects_comm.cache_clear()
    after = count(0)
    print(f"{CLUSTERS} clusters were closed: {closed} schedulers in memory; {after} after the cache was emptied")
    raise SystemExit(0 if (closed, after) == (CLUSTERS, 0) else "this has changed")
PY
venv/bin/python run.py 2> run.log || { cat run.log; exit 1; }
