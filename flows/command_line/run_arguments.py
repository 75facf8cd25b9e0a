"""What commands about ended audits share: the run, completed by what there is, and JSON."""

from __future__ import annotations

from typing import Annotated

import typer

RUN_HELP = "Id of an audit's MLflow run (its start will do), `latest`, or the path of its run folder."


def complete_runs(incomplete: str) -> list[str]:
    """For the shell."""
    from lavise.flows.past_audits.run_list import LATEST, list_runs
    from lavise.storage.state.environment import find_state_root

    known = [LATEST, *(run.run_id for run in list_runs(find_state_root(None)))]
    return [run for run in known if run.startswith(incomplete)]


RunArgument = Annotated[str, typer.Argument(help=RUN_HELP, autocompletion=complete_runs)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]
