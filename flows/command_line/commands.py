"""The command line. Heavy libraries are imported by the command that needs them, so that --help answers at once."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, ParamSpec

import typer

from lavise.flows.command_line import run_commands
from lavise.flows.command_line.guard import EXIT_FAILURE, EXIT_NO, guard
from lavise.flows.command_line.run_arguments import RUN_HELP, JsonOption, RunArgument, complete_runs
from lavise.storage.loopback import reach_loopback_directly

app = typer.Typer(
    name="lavise",
    help="Says in words, with pictures and numbers, what every filter of a CNN looks for.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

P = ParamSpec("P")


def _command(name: str | None = None) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """A command under its function's name, listed with the whole first line of its docstring."""

    def put(command: Callable[P, None]) -> Callable[P, None]:
        summary = (command.__doc__ or "").strip().partition("\n")[0]
        app.command(name, short_help=summary)(guard(command))
        return command

    return put


def _complete_presets(incomplete: str) -> list[str]:
    from lavise.configs.loading import list_presets

    return [name for name in list_presets() if name.startswith(incomplete)]


def _complete_settings(incomplete: str) -> list[str]:
    from lavise.configs.described_settings import list_keys

    return [key for key in list_keys() if key.startswith(incomplete)]


ConfigArgument = Annotated[
    str,
    typer.Argument(help="A preset's name (see `lavise presets`) or a YAML file.", autocompletion=_complete_presets),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. --set explain.top_images=10."),
]
DetailsOption = Annotated[
    bool, typer.Option("--details", help="At the end also print recall, what analyses found, and all stages.")
]
PolicyOption = Annotated[
    str | None, typer.Option(help="Rules that each audit must pass: `default`, or a YAML file (docs/operate.md).")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(f"lavise {metadata.version('lavise')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


@_command()
def run(
    config: ConfigArgument, set_: SetOption = None, details: DetailsOption = False, as_json: JsonOption = False
) -> None:
    """Audit a checkpoint: explain every filter of its target layers."""
    _audit(config, set_ or [], details, as_json)


@_command()
def demo(set_: SetOption = None, details: DetailsOption = False, as_json: JsonOption = False) -> None:
    """The same as `lavise run demo`: a real ImageNet network on pictures made here."""
    _audit("demo", set_ or [], details, as_json)


@_command()
def bias(
    config: ConfigArgument,
    groups: Annotated[
        str,
        typer.Option(
            help="folder, folder:LEVEL, csv:FILE:COLUMN, csv:FILE:COLUMN,COLUMN or annotations:PREDICATE, "
            'e.g. annotations:"person and not dog".'
        ),
    ],
    stratify_by: Annotated[
        str | None, typer.Option(help="Compare within such groups, too; written like --groups.")
    ] = None,
    images: Annotated[
        Literal["target", "train", "evaluation"] | None,
        typer.Option(help="Which pictures: the target's, or those of the reference, which have annotations."),
    ] = None,
    set_: SetOption = None,
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """In which concepts groups of pictures differ: audits (or takes what an earlier audit left), then compares."""
    given = {"groups": groups, "stratify_by": stratify_by, "images": images}
    chosen = [f"bias.{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    _audit(config, [*(set_ or []), *chosen], details, as_json)


@_command()
def layers(
    model: Annotated[
        str,
        typer.Argument(
            help="timm:NAME, torchvision:NAME, NAME, transformers:FOLDER, package.module:callable, a preset or a YAML."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """List the modules that one can explain, with the shapes of their maps."""
    from lavise.flows.command_line.tables import show_layers

    show_layers(model, as_json)


@_command()
def presets() -> None:
    """List the presets."""
    from lavise.configs.loading import list_presets

    for name in list_presets():
        typer.echo(name)


@_command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where things are looked for that no option names.")] = Path(),
    weights: Annotated[str | None, typer.Option(help="The checkpoint: a file or folder, or package:NAME.")] = None,
    arch: Annotated[
        str | None, typer.Option(help="Its architecture, as `lavise layers` takes it; else recognised by its tensors.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Labelled pictures (docs/data.md): a folder, whose layout is recognised; openmoji; patterns."
        ),
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="Pictures to explain the filters on; no label is read.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the audit; else after the folder.")] = None,
    out: Annotated[Path, typer.Option(help="The file that is written.")] = Path("lavise.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Look at a checkpoint, pictures and labels, and write a config for them: then `lavise run lavise.yaml`."""
    from lavise.flows.command_line.first_config import Named, write_first_config

    settings = write_first_config(Named(folder, weights, arch, labels, pictures, name), out, force)
    from lavise.flows.doctor import run_doctor

    if not run_doctor(settings, as_json=False):
        raise typer.Exit(EXIT_FAILURE)
    typer.echo(f"next: lavise run {out}")


@_command()
def config(
    key: Annotated[
        str | None,
        typer.Argument(
            help="A section or a setting, as train or train.objective; without it, the sections are listed.",
            autocompletion=_complete_settings,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a setting is, its default, and what is allowed."""
    from lavise.flows.command_line.settings import show_settings

    show_settings(key, as_json)


@_command()
def runs(
    limit: Annotated[int, typer.Option(help="At most so many, the newest; 0 is all.", min=0)] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the audits of this state folder: id, name, model, filters explained, gate."""
    from lavise.flows.command_line.run_tables import show_runs

    show_runs(limit, as_json)


@_command("open")
def open_(
    run: Annotated[str, typer.Argument(help=RUN_HELP, autocompletion=complete_runs)] = "latest",
    only_path: Annotated[bool, typer.Option("--path", help="Print where the page is, and open nothing.")] = False,
) -> None:
    """Open the report of an audit in the browser."""
    from lavise.flows.command_line.run_tables import open_report

    open_report(run, only_path)


@_command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.", min=1, max=65535)] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.", min=1, max=65535)] = 5000,
    watch: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints: switches on the deployment lavise-reaudit/watch.")
    ] = None,
    config: Annotated[str, typer.Option(help="With --watch: a preset or a YAML file.")] = "demo",
    set_: SetOption = None,
    policy: PolicyOption = None,
    every: Annotated[float, typer.Option(help="With --watch: seconds between two looks.", min=5)] = 300.0,
    stable: Annotated[float, typer.Option(help="With --watch: seconds without a change.", min=0)] = 30.0,
) -> None:
    """Start the Prefect server, the MLflow server and a worker with the deployments, on loopback. Ctrl-C stops all."""
    from lavise.flows.orchestration.local_services import Watch, run_services

    watched = Watch(watch, config, set_ or [], policy, every, stable) if watch else None
    run_services(prefect_port, mlflow_port, watched)


@_command()
def reaudit(
    config: ConfigArgument,
    folder: Annotated[Path | None, typer.Option(help="Folder that new checkpoints come to.")] = None,
    pattern: Annotated[str, typer.Option(help="Which files of the folder.")] = "**/*",
    stable: Annotated[float, typer.Option(help="Take files unchanged for so many seconds.", min=0)] = 30.0,
    model: Annotated[str | None, typer.Option(help="Registered model in MLflow, instead of a folder.")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Only versions of the model with this alias.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Settings of any kind of source, e.g. --source kind=folder."),
    ] = None,
    set_: SetOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Audit each new checkpoint once, and say what changed since the last one: for cron, without a Prefect server."""
    from lavise.flows.command_line.tables import show_reaudit
    from lavise.flows.repeats.reaudit import failed_outcomes, make_source, reaudit_here
    from lavise.storage.state.progress import default_progress

    chosen = make_source(folder, pattern, stable, model, alias or [], source or [])
    result = reaudit_here(config, set_ or [], chosen, policy, default_progress())
    show_reaudit(result)
    if as_json:
        print(result.to_json(), flush=True)
    if failed_outcomes(result):
        raise typer.Exit(EXIT_FAILURE)
    if any(c.gate not in (None, "passed") for c in result.checkpoints):
        raise typer.Exit(EXIT_NO)


@_command()
def diff(
    run_a: Annotated[
        str,
        typer.Argument(
            help="The earlier audit: id of its MLflow run (or its start), or its run folder.",
            autocompletion=complete_runs,
        ),
    ],
    run_b: Annotated[str, typer.Argument(help="The later audit; `latest` will do.", autocompletion=complete_runs)],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Settings of the comparison, e.g. --set diff.same_at=0.95."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What changed between two audits: filters kept, changed, lost and new, words gained and lost."""
    from lavise.flows.command_line.tables import show_diff
    from lavise.flows.past_audits.compare import diff_runs
    from lavise.flows.past_audits.past_runs import open_stores
    from lavise.flows.past_audits.run_list import resolve_run
    from lavise.flows.shared.retries import run_with_retries
    from lavise.storage.state.progress import default_progress

    run_a, run_b = resolve_run(run_a), resolve_run(run_b)
    tracker, root = open_stores(run_b)
    result = diff_runs(run_a, run_b, set_ or [], tracker, root, default_progress(), run_with_retries)
    show_diff(result)
    if as_json:
        print(result.to_json(), flush=True)


@_command()
def gate(
    run: RunArgument,
    policy: Annotated[
        str | None, typer.Option(help="A policy's name or YAML file; without it, the one that the run was judged by.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Run to compare with, after `lavise diff`; without it, the predecessor.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Pass (exit code 0) or fail (3) an audit by a policy."""
    from lavise.flows.command_line.tables import show_verdicts
    from lavise.flows.past_audits.gate import announce, gate_run
    from lavise.flows.past_audits.past_runs import open_stores
    from lavise.flows.past_audits.run_list import resolve_run

    run = resolve_run(run)
    tracker, root = open_stores(run)
    result = gate_run(run, policy, against and resolve_run(against), tracker, root)
    show_verdicts(result)
    announce(result)
    if as_json:
        print(result.to_json(), flush=True)
    if result.outcome != "passed":
        raise typer.Exit(EXIT_NO)


_command()(run_commands.review)
_command()(run_commands.expect)
_command()(run_commands.report)


@_command()
def rerun(
    run: RunArgument,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Where an input is now, e.g. --set model.weights=FILE."),
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Run even if an input is not what it was.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Repeat an audit from scratch and compare every table and weight bit for bit: exit code 0, or 3 where not."""
    from lavise.flows.command_line.tables import show_rerun
    from lavise.flows.past_audits.past_runs import open_stores
    from lavise.flows.past_audits.run_list import resolve_run
    from lavise.flows.repeats.rerun import rerun_audit
    from lavise.flows.shared.retries import run_with_retries
    from lavise.storage.state.progress import default_progress

    run = resolve_run(run)
    tracker, root = open_stores(run)
    result = rerun_audit(run, set_ or [], anyway, tracker, root, default_progress(), run_with_retries)
    show_rerun(result)
    if as_json:
        print(result.to_json(), flush=True)
    if not result.repeated:
        raise typer.Exit(EXIT_NO)


@_command()
def doctor(
    config: Annotated[
        str | None, typer.Argument(help="A preset's name or a YAML file, to check what it needs as well.")
    ] = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the environment, and say what to do: exit code 0 where an audit can run, else 1."""
    from lavise.configs.loading import load_config

    settings = load_config(config, set_ or []) if config else None
    from lavise.flows.doctor import run_doctor

    if not run_doctor(settings, as_json):
        raise typer.Exit(EXIT_FAILURE)


@_command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    keep_hours: Annotated[float, typer.Option(help="Keep what is younger than this.", min=0)] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Disk use per stage; remove artefacts that no kept run refers to."""
    from lavise.flows.command_line.gc import run_gc

    run_gc(dry_run, keep_hours, as_json)


def _audit(config: str, overrides: list[str], details: bool, as_json: bool) -> None:
    from lavise.configs.loading import load_config

    settings = load_config(config, overrides)  # before anything heavy: mistakes are answered at once
    from lavise.flows.audit.run import run_audit
    from lavise.flows.command_line.live_stages import show_stages
    from lavise.flows.command_line.tables import show_result
    from lavise.flows.shared.retries import run_with_retries
    from lavise.storage.state.environment import find_state_root
    from lavise.storage.tracking import open_tracker

    tracker = open_tracker(settings.tracking, find_state_root(settings.storage.root))
    with show_stages(details) as progress:
        result = run_audit(settings, tracker, progress, run_with_retries)
    show_result(result, details)
    if as_json:
        print(result.to_json(), flush=True)


def main() -> None:
    """Entry point of `lavise`: 0, 2 with one clear line for the user's mistakes, 3 for a no, 1 for anything else.

    130 after Ctrl-C, 141 where nobody reads the output any more.
    """
    os.environ.setdefault("DO_NOT_TRACK", "true")
    reach_loopback_directly()
    _log_to_stderr()
    app()


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    own = logging.getLogger("lavise")
    own.setLevel(logging.INFO)
    own.addHandler(handler)
    own.propagate = False
