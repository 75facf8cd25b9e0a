"""What a check says, and how it is run so that it can neither take the doctor down nor hold it up."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lavise.configs.errors import UserError
from lavise.storage.tracking_addresses import hide_credentials

Status = Literal["ok", "warning", "failed"]
CHECKOUT = Path(__file__).resolve().parents[2]
ANSWER_SECONDS = 4.0
_CHECK_SECONDS = 60.0
_MAX_CHARS = 400


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and what to do where that is not as it should be (empty when ok)."""

    name: str
    status: Status
    found: str
    advice: str


Report = Iterable[Check]


def run_check(name: str, look: Callable[[], Report], limit_seconds: float = _CHECK_SECONDS) -> list[Check]:
    """What a check finds; one that raises or does not end in time has failed, after what it found until then."""
    found: list[Check] = []

    def work() -> None:
        try:
            for check in look():
                found.append(_tidy(check))
        except UserError as err:
            # `field: found X; allowed: Y; do Z`
            what, _, advice = str(err).partition("; ")
            found.append(_tidy(Check(name, "failed", what, advice or "set it right in the settings")))
        except BaseException as err:  # noqa: BLE001 - a check never takes the doctor down; this is its own thread
            advice = "put right what failed above first; if nothing did, report this line"
            found.append(_tidy(Check(name, "failed", f"{type(err).__name__}: {err}", advice)))

    # With the settings that hold here: Prefect keeps its own in a context variable.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    thread.join(limit_seconds)
    if thread.is_alive():
        late = f"not finished within {limit_seconds:g} s"
        return [*found, Check(name, "failed", late, "find out which disk, driver or server hangs, and see to that")]
    return found


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name, "ok", found, "")


def describe_error(error: Exception) -> str:
    """In one line of bearable length, and not empty."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _tidy(check: Check) -> Check:
    """One line each, of bearable length, without the passwords that addresses may hold."""
    found, advice = (hide_credentials(" ".join(text.split())) for text in (check.found, check.advice))
    return Check(check.name, check.status, found if len(found) <= _MAX_CHARS else f"{found[:_MAX_CHARS]} ...", advice)
