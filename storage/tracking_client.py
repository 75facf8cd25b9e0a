"""MLflow's client, with a line for the user where the store is lost in the middle of an audit.

A server that does not answer, or answers 5xx, is asked again by MLflow's client for some minutes; a database that is
locked is waited for here. What is lost after that is told at once: the requests that follow, which only say how
the audit ended, are tried once each.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from lavise.configs.errors import UserError
from lavise.storage.state.disk_faults import find_write_fault
from lavise.storage.state.text import one_line
from lavise.storage.tracking_addresses import hide_credentials

log = logging.getLogger("lavise")
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_LOCKED = "database is locked"
_LOCKED_SECONDS = 180.0
_ASK_AGAIN_SECONDS = 2.0


class TrackingLostError(UserError):
    """The store does not answer any more, or refuses to work; what was finished is kept."""


class LastingClient:
    """An `MlflowClient`: each of its methods, and its attributes.

    Attributes:
        is_lost: the last request that failed did so because the store is away; a request that succeeds ends that.
    """

    def __init__(self, client: Any, uri: str) -> None:
        self._client, self._uri, self.is_lost = client, uri, False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        deadline, waits = time.monotonic() + _LOCKED_SECONDS, False
        while True:
            try:
                result = self._ask(method, *args, **kwargs)
            except Exception as err:
                if not _is_locked(err) or self.is_lost or time.monotonic() > deadline:
                    self._explain(err)
                    raise
                if not waits:
                    log.warning("  MLflow's database is locked by another process; waiting for it")
                waits = True
                time.sleep(_ASK_AGAIN_SECONDS)
            else:
                self.is_lost = False
                return result

    def _ask(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.is_lost:
            return method(*args, **kwargs)
        before = os.environ.get(_RETRIES)
        os.environ[_RETRIES] = "0"
        try:
            return method(*args, **kwargs)
        finally:
            if before is None:
                del os.environ[_RETRIES]
            else:
                os.environ[_RETRIES] = before

    def _explain(self, error: Exception) -> None:
        """Raises:
        TrackingLostError: where the store is away; returns for every other error, and where a disk takes nothing more.
        """
        if find_write_fault(error) is not None or not (_is_away(error) or _is_locked(error)):
            return
        self.is_lost = True
        where, reason = hide_credentials(self._uri), hide_credentials(one_line(error))[:200]
        raise TrackingLostError(
            f"tracking.uri: {where} does not work any more ({reason}); what was finished is kept: see to that store, "
            "then run it again"
        ) from error


def _is_locked(error: Exception) -> bool:
    return _LOCKED in str(error)


def _is_away(error: Exception) -> bool:
    """Whether it is the store's own state: no connection, 5xx, a database that cannot be opened or written."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        return error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED")
    return isinstance(error, RequestException | SQLAlchemyError | ConnectionError | TimeoutError)
