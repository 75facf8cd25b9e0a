"""The command line. Heavy libraries are imported by the command that needs them, so that --help answers at once."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer

from configs.errors import UserError

EXIT_FAILURE, EXIT_USER_ERROR, EXIT_STOPPED = 1, 2, 130

app = typer.Typer(
    name="lavise",
    help="Says in words, with pictures and numbers, what every filter of a CNN looks for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

P = ParamSpec("P")


def _guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turns what a command raises into a line on standard error and an exit code."""

    @functools.wraps(command)
    def run_it(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except UserError as err:
            print("\n".join(f"lavise: {line}" for line in str(err).splitlines()), file=sys.stderr)
            raise typer.Exit(EXIT_USER_ERROR) from None
        except KeyboardInterrupt:
            print("lavise: stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
            raise typer.Exit(EXIT_STOPPED) from None
        except Exception as err:
            import traceback

            traceback.print_exc()
            print(f"lavise: failed: {type(err).__name__}: {err}", file=sys.stderr)
            raise typer.Exit(EXIT_FAILURE) from err

    return run_it


ConfigArgument = Annotated[str, typer.Argument(help="A preset's name (see `lavise presets`) or a YAML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. --set explain.top_images=10."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]


@app.command()
@_guarded
def run(config: ConfigArgument, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Audit a checkpoint: explain every filter of its target layers."""
    _audit(config, set_ or [], as_json)


@app.command()
@_guarded
def demo(set_: SetOption = None, as_json: JsonOption = False) -> None:
    """The same as `lavise run demo`: a real ImageNet network on pictures made here."""
    _audit("demo", set_ or [], as_json)


@app.command()
@_guarded
def layers(
    model: Annotated[
        str,
        typer.Argument(help="timm:NAME, torchvision:NAME, NAME, package.module:callable, or a preset or YAML file."),
    ],
    as_json: JsonOption = False,
) -> None:
    """List the modules that one can explain, with the shapes of their maps."""
    from flows.show import show_layers

    show_layers(model, as_json)


@app.command()
@_guarded
def presets() -> None:
    """List the presets."""
    from configs.loading import list_presets

    for name in list_presets():
        typer.echo(name)


@app.command()
@_guarded
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.", min=1, max=65535)] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.", min=1, max=65535)] = 5000,
) -> None:
    """Start the Prefect server, the MLflow server and a worker with the deployments, on loopback. Ctrl-C stops all."""
    from flows.services import run_services

    run_services(prefect_port, mlflow_port)


def _audit(config: str, overrides: list[str], as_json: bool) -> None:
    from configs.loading import load_config

    settings = load_config(config, overrides)  # before anything heavy: mistakes are answered at once
    from flows.audit import run_audit
    from flows.execution import run_with_retries
    from flows.show import show_result
    from storage.environment import find_state_root
    from storage.progress import default_progress
    from storage.tracking import open_tracker

    tracker = open_tracker(settings.tracking, find_state_root(settings.storage.root))
    result = run_audit(settings, tracker, default_progress(), run_with_retries)
    show_result(result)
    if as_json:
        print(result.to_json(), flush=True)


def main() -> None:
    """Entry point of `lavise`: 0, or 2 with one clear line for the user's mistakes, or 1 for anything else."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    _log_to_stderr()
    app()


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    own = logging.getLogger("lavise")
    own.setLevel(logging.INFO)
    own.addHandler(handler)
    own.propagate = False


if __name__ == "__main__":
    main()
