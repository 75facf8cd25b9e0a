"""Claims in MLflow: who is at work on a checkpoint, for re-audits that share MLflow but no state folder.

MLflow has no locks. A claim is a note of the experiment that says who and when; whoever writes one looks again a moment
later, and the last writer has it. So two that begin within the same few milliseconds may still both go on, which the
audit says afterwards. A claim is written anew every minute while its owner works, and counts for nothing when it was
not for ten, or when its process on this machine is gone.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from lavise.storage.state.processes import describe_start, is_alive
from lavise.storage.tracking import Tracker

log = logging.getLogger("lavise")
SETTLE_SECONDS = 1.0
_RENEW_SECONDS = 60.0
_STALE_SECONDS = 600.0
_PREFIX = "lavise.claim."


class _Claim(BaseModel):
    """Who is at work; times are seconds since 1970."""

    model_config = ConfigDict(frozen=True)
    owner: str
    host: str
    pid: str
    pid_started: str
    since: float
    seen: float

    def describe(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC)
        return f"process {self.pid} on {self.host}, since {since:%Y-%m-%d %H:%M:%S} UTC"

    def counts(self, now: float) -> bool:
        """Whether its owner is still at work, as far as can be told from here."""
        if self.host == socket.gethostname():
            return is_alive(self.pid, self.pid_started)
        return abs(now - self.seen) < _STALE_SECONDS


@contextmanager
def hold_claim(tracker: Tracker, name: str, settle_seconds: float = SETTLE_SECONDS) -> Iterator[str]:
    """Claim a piece of work while the block runs.

    Args:
        name: of the work; the same for all who might do it.
        settle_seconds: until the claim is looked at again.

    Yields:
        who else has it, in words; "" where the claim is ours.
    """
    key, now = _PREFIX + name, time.time()
    other = _read(tracker, key)
    if other and other.counts(now):
        yield other.describe()
        return
    own = _Claim(
        owner=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=str(os.getpid()),
        pid_started=describe_start(),
        since=now,
        seen=now,
    )
    _write(tracker, key, own)
    time.sleep(settle_seconds)
    last = _read(tracker, key)
    if last and last.owner != own.owner and last.counts(time.time()):
        yield last.describe()
        return
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(tracker, key, own, done), daemon=True)
    renewing.start()
    try:
        yield ""
    finally:
        done.set()
        renewing.join()
        _give_back(tracker, key, own)


def _renew(tracker: Tracker, key: str, own: _Claim, done: threading.Event) -> None:
    while not done.wait(_RENEW_SECONDS):
        try:
            _write(tracker, key, own.model_copy(update={"seen": time.time()}))
        except Exception as err:  # noqa: BLE001 - the audit is worth more than its claim, whatever MLflow raises
            log.warning("  the claim on this checkpoint could not be renewed: %s", err)


def _give_back(tracker: Tracker, key: str, own: _Claim) -> None:
    try:
        last = _read(tracker, key)
        if last and last.owner == own.owner:
            tracker.write_note(key, None)
    except Exception as err:  # noqa: BLE001 - it counts for nothing after a while, or when this process has ended
        log.warning("  the claim on this checkpoint could not be given back: %s", err)


def _read(tracker: Tracker, key: str) -> _Claim | None:
    try:
        return _Claim.model_validate_json(tracker.read_note(key) or "")
    except ValidationError:
        return None


def _write(tracker: Tracker, key: str, claim: _Claim) -> None:
    tracker.write_note(key, json.dumps(claim.model_dump()))
