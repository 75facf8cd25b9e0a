#!/bin/sh
# distributed 2026.8.0, dask 2026.8.0, torch 2.15.0, numpy 2.4.6 (Python 3.11 or later, Linux with glibc, CPU)
#
# Seen: a forward pass of a small CNN asks the system for three to eight times as many memory pages in a Dask worker as in
# a process without Dask, one thread each. It takes the more of the processor's time, the dearer a page is: two to four
# times as much in a virtual machine. The numbers that come out are the same. Dask's nanny sets
# MALLOC_TRIM_THRESHOLD_=65536 for its workers, so that they give memory back. With glibc, whoever sets that threshold
# also stops malloc from learning how large the blocks of a program are (mallopt(3), M_MMAP_THRESHOLD): all above 128 KiB
# are then new memory from the system, filled with zeros page by page, at every layer and every pass. With the variable
# taken out of Dask's configuration, a worker asks for no more than the process does, give or take.
#
# Expected by most: a worker that computes alone is as fast as the same code outside of it.
#
# Why it matters to whoever audits a network: activations of large data sets are what clusters are asked for, and on
# CPU workers most of the time may go into pages of zeros. Nothing warns of it.
#
# guess before the run: more pages in the worker, by the cause above; how many more was not guessed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check distributed==2026.8.0 dask==2026.8.0 torch==2.15.0 \
    numpy==2.4.6 2> pip.log
cat > run.py <<'PY'
import ctypes
import multiprocessing
import os
import resource
import time

PASSES = 10


def measure():
    """(pages that are asked for in a pass, ms of the processor, a number that the network gives)."""
    import torch
    from torch import nn

    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages, which some systems give to all: they would be counted as one
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    layers += [nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.BatchNorm2d(32), nn.ReLU()]
    network, images = nn.Sequential(*layers).eval(), torch.randn(8, 3, 112, 112)
    with torch.inference_mode():
        network(images)
        network(images)
        pages, begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        for _ in range(PASSES):
            last = network(images).double().sum().item()
        seconds = time.process_time() - begun
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages) / PASSES, seconds / PASSES * 1000, last


if __name__ == "__main__":
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        del os.environ[name]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = {"a process": pool.apply(measure)}
    import dask
    from distributed import Client, LocalCluster

    def measure_worker():
        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
            return client.submit(measure).result()

    found["a worker"] = measure_worker()
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)  # which Dask leaves behind in this process, too
    environment = dict(dask.config.get("distributed.nanny.pre-spawn-environ"))
    print("what Dask sets:", environment)
    del environment["MALLOC_TRIM_THRESHOLD_"]
    dask.config.config["distributed"]["nanny"]["pre-spawn-environ"] = environment
    found["a worker without that"] = measure_worker()
    for name, (pages, milliseconds, _) in found.items():
        print(f"{name}: {pages:,.0f} pages and {milliseconds:.0f} ms of the processor a pass")
    alone, worker, changed = (pages for pages, _, _ in found.values())
    as_seen = worker > 2 * max(alone, changed) and len({last for _, _, last in found.values()}) == 1
    raise SystemExit(0 if as_seen else "this has changed")
PY
venv/bin/python run.py 2> run.log || { cat run.log; exit 1; }
