"""`lavise doctor`: looks at everything that a run needs, and says what to do about what it lacks.

Each check stands alone: it runs in a thread of its own with a time limit, and whatever goes wrong in it (also an
import that fails, or a file system that never answers) becomes its result. Nothing is changed, and
nothing left behind but a sheet of samples of the data, in the state folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from lavise.configs.loading import make_absolute
from lavise.configs.schema import Config, StorageSettings, TrackingSettings, WordSettings
from lavise.flows.doctor.check import Check, Report, Status, run_check
from lavise.flows.doctor.contents import check_contents
from lavise.flows.doctor.extraction import check_extraction
from lavise.flows.doctor.inputs import check_data, check_demo, check_model, check_word_vectors
from lavise.flows.doctor.listening import check_listening
from lavise.flows.doctor.machine import (
    check_device,
    check_disk,
    check_memory,
    check_packages,
    check_python,
    check_state_folder,
    check_torch,
)
from lavise.flows.doctor.services import check_git, check_mlflow, check_prefect, check_scheduler

__all__ = ["Check", "Report", "Status", "examine", "run_check", "run_doctor"]
_COLOURS: dict[Status, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def run_doctor(config: Config | None, as_json: bool) -> bool:
    """Print all checks as a table, and with `as_json` one JSON object as the last line; True where nothing failed."""
    from lavise.flows.shared.console import escape, make_console, make_table

    console = make_console()
    with console.status("looking at this machine"):
        checks = examine(config)
    table = make_table("doctor" if config is None else f"doctor: {config.name}")
    for heading in ("status", "check", "found", "what to do"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("status", "check"))
    for check in checks:
        status = f"[{_COLOURS[check.status]}]{check.status}[/]"
        table.add_row(status, escape(check.name), escape(check.found), escape(check.advice))
    console.print(table)
    failed, warnings = (sum(c.status == status for c in checks) for status in ("failed", "warning"))
    verdict = "; put that right from the top down" if failed else ""
    console.print(f"failed: {failed}, warnings: {warnings}{verdict}", highlight=False, markup=False)
    if as_json:
        content = json.dumps({"healthy": not failed, "checks": [asdict(c) for c in checks]})
        print(content, flush=True)  # noqa: T201 - the command's answer
    return not failed


def examine(config: Config | None) -> list[Check]:
    """All checks, in the order in which one would put things right.

    Args:
        config: also check what this audit needs; None checks the installation and the defaults.
    """
    config = make_absolute(config) if config else None  # as an audit does
    root = (config.storage if config else StorageSettings()).root
    looks: list[tuple[str, Callable[[], Report]]] = [
        ("Python", check_python),
        ("packages", check_packages),
        ("torch", check_torch),
        ("device", partial(check_device, config.device if config else "auto")),
        ("memory", check_memory),
        ("state folder", partial(check_state_folder, root)),
        ("disk", partial(check_disk, root)),
        ("git", check_git),
        ("word vectors", partial(check_word_vectors, config.words if config else WordSettings())),
        ("demo", check_demo),
    ]
    if config:
        looks += [("target model", partial(check_model, config)), ("data", partial(check_data, config))]
        looks.append(("contents of the data", partial(check_contents, config)))
        looks.append(("extraction", partial(check_extraction, config)))
    looks += [
        ("Prefect", check_prefect),
        ("servers", partial(check_listening, root)),
        ("MLflow", partial(check_mlflow, config.tracking if config else TrackingSettings(), root)),
    ]
    if config and config.statistics.scheduler:
        looks.append(("Dask", partial(check_scheduler, config.statistics.scheduler)))
    return [check for name, look in looks for check in run_check(name, look)]
