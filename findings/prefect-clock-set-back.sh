#!/bin/sh
# prefect 3.8.8, fastapi 0.150.0, sqlalchemy 2.0.58, libfaketime 3.0.1 (Python 3.11 or later, Linux)
#
# Seen: after the machine's clock was set back by a day, Prefect's server plans nothing more for a deployment that is
# due every 30 s, in the minutes that are waited here; by its source, not until the day has passed. It takes up a deployment when there are too few plans ahead of the
# present time, or when the last of them is near; those that it had made before lie a day ahead, are enough, and are
# far. Deleting them is not enough: the server's own loops seem to wait for the time at which they meant to go on, too.
# With the plans deleted and the server started again, runs are planned from the present time on.
#
# Expected by most: that a schedule goes on at the clock's new time, at the scheduler's next look, or a few looks later.
#
# Why it matters to whoever audits networks: a folder that is watched, or a nightly audit, stands still for as long as
# the clock was wrong (a battery, a virtual machine that was resumed, a time zone written into the clock), and nothing
# says so: the server is well, the worker is well, and the deployment is active.
#
# guess before it was looked for: at most one or two looks are left out.
set -eu
folder=$(mktemp -d)
trap 'kill "$server" 2> /dev/null || true; rm -rf "$folder"' EXIT
server=
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check prefect==3.8.8 fastapi==0.150.0 sqlalchemy==2.0.58 libfaketime==3.0.1 2> pip.log
library=$(find "$folder/venv" -name libfaketime.so.1)
export PREFECT_HOME="$folder/home" PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=true
port=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PREFECT_API_URL="http://127.0.0.1:$port/api" FAKETIME_FILE="$folder/clock"
echo "+0" > clock
serve() {
    LD_PRELOAD="$library" FAKETIME_TIMESTAMP_FILE="$FAKETIME_FILE" FAKETIME_CACHE_DURATION=1 \
        FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1 \
        venv/bin/prefect server start --host 127.0.0.1 --port "$port" > server.log 2>&1 &
    server=$!
}
serve
cat > run.py <<'PY'
import os
import sys
import time
from datetime import datetime, timedelta, timezone

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule

DAY, PATIENCE_SECONDS = 86_400, 130


@flow
def look() -> None:
    pass


def wait(ready, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if ready():
                return True
        except Exception:  # not up yet
            pass
        time.sleep(2)
    return False


def planned(client, back):
    """How many runs are planned within the five minutes that follow the server's present time."""
    now = datetime.now(timezone.utc) - timedelta(seconds=back)
    times = [run.expected_start_time for run in client.read_flow_runs()]
    return sum(now < t < now + timedelta(minutes=5) for t in times)


def set_back(client):
    every = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(seconds=30)))
    client.create_deployment(client.create_flow(look), name="watch", schedules=[every])
    assert wait(lambda: planned(client, 0) >= 3, 120), "nothing is planned at the right time"
    print(f"before: {planned(client, 0)} runs are planned for the next five minutes", flush=True)
    with open(os.environ["FAKETIME_FILE"], "w") as clock:
        clock.write(f"-{DAY}\n")
    wait(lambda: planned(client, DAY) > 0, PATIENCE_SECONDS)
    print(f"{PATIENCE_SECONDS} s after the clock was set back by a day: {planned(client, DAY)} are", flush=True)
    return planned(client, DAY) == 0


def delete_plans(client):
    for run in client.read_flow_runs():
        client.delete_flow_run(run.id)
    wait(lambda: planned(client, DAY) > 0, PATIENCE_SECONDS)
    print(f"{PATIENCE_SECONDS} s after what was planned before is deleted: {planned(client, DAY)} are", flush=True)
    return planned(client, DAY) == 0


def start_again(client):
    wait(lambda: planned(client, DAY) > 0, PATIENCE_SECONDS)
    print(f"once the server was started again as well: {planned(client, DAY)} are", flush=True)
    return planned(client, DAY) > 0


with get_client(sync_client=True) as client:
    assert wait(lambda: client.api_healthcheck() is None, 120), "the server does not start"
    as_seen = all(globals()[step](client) for step in sys.argv[1:])
    raise SystemExit(0 if as_seen else "this has changed")
PY
venv/bin/python run.py set_back delete_plans 2> run.log || { cat run.log; tail -20 server.log; exit 1; }
kill "$server"
wait "$server" || true
serve
venv/bin/python run.py start_again 2> run.log || { cat run.log; tail -20 server.log; exit 1; }
