"""How every command ends: a line on standard error and an exit code."""

from __future__ import annotations

import functools
import os
import select
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from lavise.configs.errors import UserError

EXIT_FAILURE, EXIT_USER_ERROR, EXIT_NO, EXIT_STOPPED, EXIT_NO_READER = 1, 2, 3, 130, 141

P = ParamSpec("P")


def guard(command: Callable[P, None]) -> Callable[P, None]:
    """Turns what a command raises into a line on standard error and an exit code."""

    @functools.wraps(command)
    def run_it(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except UserError as err:
            print("\n".join(f"lavise: {line}" for line in str(err).splitlines()), file=sys.stderr)
            raise typer.Exit(EXIT_USER_ERROR) from None
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            print("lavise: stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
            raise typer.Exit(EXIT_STOPPED) from None
        except Exception as err:
            if isinstance(err, BrokenPipeError) and _has_lost_reader():
                raise typer.Exit(EXIT_NO_READER) from None  # as a shell says of what SIGPIPE has ended
            from lavise.storage.state.disk_faults import explain_disk_fault

            if (line := explain_disk_fault(err)) is not None:
                print(f"lavise: {line}", file=sys.stderr)
                raise typer.Exit(EXIT_USER_ERROR) from None
            import traceback

            traceback.print_exc()
            print(f"lavise: failed: {type(err).__name__}: {err}", file=sys.stderr)
            raise typer.Exit(EXIT_FAILURE) from err

    return run_it


def _has_lost_reader() -> bool:
    """Whether nobody reads standard output any more (`lavise layers X | head -1`); what comes yet is thrown away."""
    try:
        number = sys.stdout.fileno()
    except OSError:  # no real file, as in tests
        return False
    poll = select.poll()
    poll.register(number, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)  # Python itself writes what is left, at the end
    return True
