"""Checks of what a run reports to or runs on besides this machine: git, Prefect, MLflow, Dask."""

from __future__ import annotations

import asyncio
import os
import platform
import shlex
import socket
import urllib.parse
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from packaging.version import InvalidVersion, Version

from lavise.configs.schema import TrackingSettings
from lavise.flows.doctor.check import ANSWER_SECONDS, CHECKOUT, Check, describe_error, ok
from lavise.flows.orchestration.local_services import WORK_POOL, find_deployments_file
from lavise.storage.state.environment import find_state_root, read_git_state
from lavise.storage.tracking import find_tracking_uri
from lavise.storage.tracking_addresses import pass_credentials, require_answer

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_OTHER_STORE = "set tracking.uri or MLFLOW_TRACKING_URI to another one, or leave both empty for a local SQLite file"


def check_git() -> Iterator[Check]:
    """Runs record the commit of the code."""
    state = read_git_state(CHECKOUT)
    if state:
        yield ok("git", f"commit {state['commit'][:12]}{', with changes' if state['dirty'] else ''}")
    elif not (CHECKOUT / ".git").exists():
        yield ok("git", "lavise is installed and no checkout: runs record its version")
    else:
        advice = f"install git, and look at what `git -C {shlex.quote(str(CHECKOUT))} status` says"
        yield Check("git", "warning", f"the commit of {CHECKOUT} is not known, and runs cannot record it", advice)


def check_prefect() -> Iterator[Check]:
    """The Prefect server that is configured, a worker, and the deployments; `lavise run` needs none of them."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    url = PREFECT_API_URL.value()
    if not url:
        yield ok("Prefect", "none configured; start one with `lavise up`")
        return
    patience: dict[str, Any] = {"timeout": ANSWER_SECONDS}
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(httpx_settings=patience, sync_client=True) as client,
        ):
            client.raise_for_api_version_mismatch()
            yield ok("Prefect", f"{url} answers, and fits Prefect {metadata.version('prefect')}")
            yield from _ask_prefect_objects(client)
    except Exception as err:  # noqa: BLE001 - whatever answers at a wrong address
        advice = (
            "`lavise run` needs no server; else start it (`lavise up`), set PREFECT_API_AUTH_STRING where it wants "
            "a password, or take its address out of the settings (`prefect config view` tells where it stands)"
        )
        cause = err.__cause__ if isinstance(err.__cause__, Exception) else err
        yield Check("Prefect", "warning", f"{url} does not work ({describe_error(cause)})", advice)


def _ask_prefect_objects(client: SyncPrefectClient) -> Iterator[Check]:
    """A worker for the work pool of prefect.yaml, and its deployments."""
    from prefect.exceptions import ObjectNotFound
    from prefect.flows import load_flow_arguments_from_entrypoint

    try:
        status = client.read_work_pool(WORK_POOL).status
        state = status.value.lower().replace("_", " ") if status else "of unknown state"
    except ObjectNotFound:
        state = "not there"
    if state == "ready":
        yield ok("Prefect worker", f"work pool {WORK_POOL}: ready, a worker is online")
    else:
        advice = f"start `lavise up`; or `prefect work-pool resume {WORK_POOL}`, `prefect worker start -p {WORK_POOL}`"
        yield Check("Prefect worker", "warning", f"work pool {WORK_POOL}: {state}; no flow run is started", advice)
    file = find_deployments_file()
    missing = []
    for entry in yaml.safe_load(file.read_text("utf-8"))["deployments"]:
        name = f"{load_flow_arguments_from_entrypoint(entry['entrypoint'])['name']}/{entry['name']}"
        try:
            client.read_deployment_by_name(name)
        except ObjectNotFound:
            missing.append(name)
    if missing:
        advice = f"start `lavise up`, or `prefect --no-prompt deploy --all --prefect-file {shlex.quote(str(file))}`"
        yield Check("Prefect deployments", "warning", f"not registered: {', '.join(missing)}", advice)
    else:
        yield ok("Prefect deployments", "all registered")


def check_mlflow(settings: TrackingSettings, configured_root: Path | None) -> Iterator[Check]:
    """The tracking store that a run would write to; nothing is made or migrated in it."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from mlflow.tracking import MlflowClient

    uri = find_tracking_uri(settings, find_state_root(configured_root))
    if not settings.enabled:
        yield ok("MLflow", "off (tracking.enabled: false)")
    elif uri.startswith(("http://", "https://")):
        yield _check_mlflow_server(uri)
    elif uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
        yield _check_mlflow_database(uri)
    else:  # a folder, or the store of a plugin
        try:
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
        except MlflowException as err:
            yield Check("MLflow", "failed", f"{uri} does not work ({describe_error(err)})", _OTHER_STORE)
        else:
            yield ok("MLflow", f"{uri}: opens")


def _check_mlflow_server(uri: str) -> Check:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    require_answer(uri)
    access = get_default_host_creds(pass_credentials(uri))
    answer = http_request(access, "/version", "GET", max_retries=0, timeout=ANSWER_SECONDS, raise_on_status=False)
    if answer.status_code in (401, 403):
        advice = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return Check("MLflow", "failed", f"{uri} does not let us in (HTTP {answer.status_code})", advice)
    try:
        there, here = Version(answer.text[:80]), Version(metadata.version("mlflow"))
    except InvalidVersion:
        found = f"{uri} answers, but not as MLflow does (HTTP {answer.status_code} at /version)"
        return Check("MLflow", "failed", found, _OTHER_STORE)
    found = f"{uri}: version {there}, here {here}"
    if there.major != here.major:
        return Check("MLflow", "warning", found, f"run an MLflow {here.major} server")
    return ok("MLflow", found)


def _check_mlflow_database(uri: str) -> Check:
    import mlflow
    import sqlalchemy
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    address = sqlalchemy.engine.make_url(uri)
    is_file = address.get_backend_name() == "sqlite"
    if is_file and address.database and not Path(address.database).exists():
        return ok("MLflow", f"{uri}: made by the first run")
    wait = {"timeout": ANSWER_SECONDS} if is_file else {}
    try:
        engine = sqlalchemy.create_engine(address, connect_args=wait, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            if is_file:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # the lock that a run needs to write
            is_empty = not sqlalchemy.inspect(connection).get_table_names()
            there = MigrationContext.configure(connection).get_current_revision()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as err:
        return Check("MLflow", "failed", f"{uri} does not open ({getattr(err, 'orig', err)})", _OTHER_STORE)
    here = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations")).get_current_head()
    if is_empty or there == here:
        return ok("MLflow", f"{uri}: {'empty, filled by the first run' if is_empty else 'opens, schema up to date'}")
    found = f"{uri}: schema {there}, MLflow {mlflow.__version__} has {here}"
    upgrade = f"make a copy, then `mlflow db upgrade {shlex.quote(uri)}`"
    return Check("MLflow", "failed", found, f"{upgrade}; where that does not help, {_OTHER_STORE}")


def check_scheduler(address: str) -> Iterator[Check]:
    """The Dask scheduler answers, has workers, and runs the same Dask."""
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "error")  # read when distributed is first imported
    try:
        place = urllib.parse.urlsplit(address)
        with socket.create_connection((str(place.hostname), place.port or 0), ANSWER_SECONDS):
            pass  # says at once where nothing listens; Dask itself goes on trying
        identity, there = asyncio.run(_ask_scheduler(address))
    except Exception as err:  # noqa: BLE001 - whatever answers at a wrong address
        found = f"{address} does not answer as a Dask scheduler ({describe_error(err)})"
        local = "or leave that empty for a local cluster"
        advice = f"start it (`dask scheduler`), set statistics.scheduler to its tcp://HOST:PORT, {local}"
        yield Check("Dask", "failed", found, advice)
        return
    here = f"Python {platform.python_version()}, distributed {metadata.version('distributed')}"
    workers = identity["workers"]
    found = f"{address}: {len(workers)} workers, {sum(w['nthreads'] for w in workers.values())} threads"
    if not workers:
        yield Check("Dask", "warning", found, f"start workers where lavise is installed: `dask worker {address}`")
    elif there != here:
        yield Check("Dask", "warning", f"{found}; {there} there, {here} here", "install the same versions there")
    else:
        yield ok("Dask", f"{found}; {here} there and here")


async def _ask_scheduler(address: str) -> tuple[dict[str, Any], str]:
    """(what a scheduler says of itself, its versions); not through a Client, whose threads would outlive a failure."""
    from distributed import rpc
    from distributed.security import Security

    remote: Any = rpc(address, connection_args=Security().get_connection_args("client"))
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            identity: dict[str, Any] = await remote.identity()
            if identity["type"] != "Scheduler":
                raise ValueError(f"a {identity['type']} is there")
            versions = await remote.versions()
    finally:
        await remote.close_rpc()
    python = ".".join(str(versions["host"]["python"]).split(".")[:3])
    return identity, f"Python {python}, distributed {versions['packages']['distributed']}"
