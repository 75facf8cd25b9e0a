"""What the command line prints: tables that read well, on standard output."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from lavise.configs.errors import UserError
from lavise.configs.loading import list_presets, load_config
from lavise.configs.schema import ModelSettings
from lavise.flows.shared.console import escape, make_console, make_table
from lavise.storage.images.geometry import describe_size
from lavise.storage.state import file_names
from lavise.tasks.report.verdict import list_sentences

if TYPE_CHECKING:
    from lavise.flows.past_audits.compare import DiffResult
    from lavise.flows.past_audits.expectations import ExpectResult
    from lavise.flows.past_audits.gate import GateResult
    from lavise.flows.repeats.reaudit import ReauditResult
    from lavise.flows.repeats.rerun import RerunResult
    from lavise.flows.shared.results import RunResult
    from lavise.storage.models.layer_survey import LayerSurvey
    from lavise.storage.models.target_model import TargetModel
    from lavise.tasks.analyses.analysis import TextTable

_NUM_FILTERS = 10
_NUM_WORDS = 5
_NUM_CHANGES = 20
_NUM_LONGEST = 3
_IN_DETAILS = ("classes", "causes")  # analyses that every audit makes; others were asked for


def show_result(result: RunResult, everything: bool = False) -> None:
    """The verdict, the most confident filters, and where everything is.

    Args:
        everything: recall, what analyses found and the stages as well; all of that is in the report, too.
    """
    import pyarrow.parquet as parquet

    console = make_console()
    measured = json.loads((result.run_dir / file_names.METRICS).read_text("utf-8"))["layers"]
    rows = parquet.read_table(result.run_dir / file_names.FILTERS).to_pylist()
    for layer, found in measured.items():
        first, *others = list_sentences(found)
        console.print(f"\n[bold]{escape(layer)}: {escape(first)}[/]", highlight=False)
        for sentence in others:
            console.print(f"  {escape(sentence)}", highlight=False)
    for layer, found in measured.items():
        console.print(_filters_table(layer, [r for r in rows if r["layer"] == layer]))
        for vocabulary, methods in found["recall"].items() if everything else ():
            console.print(_recall_table(layer, vocabulary, found["evaluation"], methods))
    for table in _analyses_tables(result.run_dir, () if everything else _IN_DETAILS):
        console.print(table)
    if everything:
        console.print(_stages_table(result))
    else:
        console.print(_summarise_stages(result), highlight=False)
    console.print(f"report    {result.run_dir / 'report.html'}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"run       {result.run_id}", soft_wrap=True, highlight=False, markup=False)
    if result.tracking_uri:
        console.print(f"MLflow    {result.tracking_uri}", soft_wrap=True, highlight=False, markup=False)


def show_layers(model: str, as_json: bool) -> None:
    """The modules of a network that one can explain."""
    from lavise.storage.models.target_model import load_target_model

    if model in list_presets() or Path(model).suffix in {".yaml", ".yml"}:
        settings = load_config(model).model
    else:
        settings = ModelSettings(arch=model)
    target = load_target_model(settings, seed=0)
    found, auto = target.survey.layers, _find_auto(target.survey)
    table = make_table(f"{target.arch}: modules that one can explain, input {_describe_input(target)}")
    for heading in ("layer", "module", "filters", "map", "output"):
        table.add_column(heading, justify="right" if heading in ("filters", "map") else "left")
    for layer in found:
        table.add_row(
            escape(layer.name),
            layer.kind,
            str(layer.channels),
            f"{layer.height} x {layer.width}",
            layer.describe_layout(),
        )
    console = make_console()
    console.print(table)
    note = f"`auto` takes {auto}" if auto else "`auto` cannot tell the last map: name a layer"
    console.print(note, highlight=False, markup=False)
    if as_json:
        content = {"arch": target.arch, "auto": auto, "layers": [vars(layer) for layer in found]}
        print(json.dumps(content), flush=True)


def _describe_input(model: TargetModel) -> str:
    size = model.geometry.size_px
    shape = f"{size} px" if isinstance(size, int) else f"{describe_size(size)} px"
    return shape if model.channels == 3 else f"{shape}, {model.channels} channel{'s' if model.channels > 1 else ''}"


def _find_auto(survey: LayerSurvey) -> str | None:
    """Name of the layer that `auto` takes; None where it has to be named."""
    from lavise.storage.models.layer_survey import select_layers

    try:
        return select_layers(survey, "auto")[0].name
    except UserError:
        return None


def show_diff(result: DiffResult) -> None:
    """Per layer, how many filters are the same; then those with other words, and those that are least alike."""
    import pyarrow.parquet as parquet

    console = make_console()
    rows = parquet.read_table(result.folder / "diff.parquet").to_pylist()
    counts = make_table(f"run {result.new_run} compared with {result.old_run}")
    for heading in ("layer", "filters", "same", "changed", "lost", "new", "kept", "words gained", "words lost"):
        counts.add_column(heading, justify="left" if heading in ("layer", "words gained", "words lost") else "right")
    for layer, found in result.layers.items():
        numbers = [found[k] for k in ("num_old", "num_same", "num_changed", "num_lost", "num_new_filters")]
        words = [_list_words(found[k]) for k in ("words_gained", "words_lost")]
        counts.add_row(escape(layer), *(str(n) for n in numbers), f"{found['share_kept']:.1%}", *words)
    console.print(counts)
    other = sorted(
        (r for r in rows if r["status"] != "same" or _has_other_words(r)),
        key=lambda r: (not _has_other_words(r), -2 if r["similarity"] is None else r["similarity"]),
    )
    if other:
        console.print(_changes_table(other))
    else:
        console.print("every filter is the same")
    console.print(f"\npage      {result.folder / 'diff.html'}", soft_wrap=True, highlight=False, markup=False)


def _has_other_words(row: Mapping[str, Any]) -> bool:
    return list(row["old_words"]) != list(row["new_words"])


def _changes_table(rows: list[dict[str, Any]]) -> Table:
    """
    Args:
        rows: those with other words first.
    """
    with_words = sum(_has_other_words(row) for row in rows)
    title = f"{len(rows)} filters are not the same or have other words ({with_words}, which come first)"
    table = make_table(title if len(rows) <= _NUM_CHANGES else f"{title}; {_NUM_CHANGES} of them")
    for heading in ("status", "before", "now", "correlation \\[95 % interval]", "words before", "words now"):
        table.add_column(heading, justify="right" if heading in ("before", "now") else "left")
    for row in rows[:_NUM_CHANGES]:
        similarity = "" if row["similarity"] is None else f"{row['similarity']:.3f}"
        if similarity:
            similarity += f" \\[{row['similarity_low']:.3f}, {row['similarity_high']:.3f}]"
        indices = ["" if row[k] is None else str(row[k]) for k in ("old_filter", "new_filter")]
        words = [
            _list_words(row[f"{k}_words"]) or ("" if row[f"{k}_filter"] is None else "[dim]unexplained[/]")
            for k in ("old", "new")
        ]
        table.add_row(row["status"], *indices, similarity, *words)
    return table


def show_expectations(result: ExpectResult) -> None:
    """What became of each expected word."""
    from lavise.tasks.analyses.kinds import expectations

    for text in expectations.show_expectations({expectations.TABLE_FILE: [vars(row) for row in result.words]}):
        make_console().print(_to_table(text))


def show_verdicts(result: GateResult) -> None:
    """A row for each rule and layer, the outcome in words."""
    console = make_console()
    against = f", compared with {result.compared_with}" if result.compared_with else ""
    table = make_table(f"policy {result.policy} on run {result.run_id}{against}")
    for heading in ("rule", "layer", "found", "allowed", "outcome"):
        table.add_column(heading)
    colours = {"passed": "green", "failed": "bold red", "not_applicable": "yellow", "invalid": "bold red"}
    for verdict in result.verdicts:
        outcome = f"[{colours[verdict.outcome]}]{verdict.outcome.replace('_', ' ')}[/]"
        found, allowed = escape(verdict.found), escape(verdict.allowed)
        table.add_row(escape(verdict.rule), escape(verdict.layer or "all"), found, allowed, outcome)
    console.print(table)
    console.print(f"[{colours[result.outcome]}]{result.outcome}[/]")


def show_reaudit(result: ReauditResult) -> None:
    """What became of each checkpoint."""
    console = make_console()
    table = make_table(result.summarise())
    for heading in ("checkpoint", "outcome", "policy", "run", "detail"):
        table.add_column(heading)
    for found in result.checkpoints:
        cells = (found.name, found.outcome, found.gate or "", found.run_id or "", found.detail)
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)


def show_rerun(result: RerunResult) -> None:
    """What was compared, and the verdict."""
    console = make_console()
    table = make_table(f"run {result.rerun} repeats {result.original}")
    for heading in ("compared", "outcome", "detail"):
        table.add_column(heading)
    for finding in result.findings:
        colour = {"identical": "green", "different": "red"}.get(finding.outcome, "yellow")
        table.add_row(escape(finding.what), f"[{colour}]{finding.outcome}[/]", escape(finding.detail))
    console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"[{'green' if result.repeated else 'red'}]{result.verdict}[/]")


def _list_words(words: Sequence[str]) -> str:
    shown = escape(", ".join(words[:_NUM_WORDS]))
    return f"{shown}, ... ({len(words)})" if len(words) > _NUM_WORDS else shown


def _rank_filter(row: dict[str, Any]) -> tuple[float, float, int]:
    """Most confident first; of those that look alike the clearest preference."""
    return -round(row["confidence"], 2), -(row["auroc"] or 0.0), row["filter"]


def _filters_table(layer: str, rows: list[dict[str, Any]]) -> Table:
    """Of each first word the filter that is most confident; then of each guess, where there are few words."""
    explained = sorted((r for r in rows if r["explained"]), key=_rank_filter)
    guessed = sorted((r for r in rows if r["guess"]), key=lambda r: (-r["guess_confidence"], r["filter"]))
    by_word: dict[str, list[dict[str, Any]]] = {}
    for row in explained:
        by_word.setdefault(row["words"][0], []).append(row)
    by_guess: dict[str, list[dict[str, Any]]] = {}
    for row in guessed:
        by_guess.setdefault(row["guess"], []).append(row)
    shown = list(by_word.values())[:_NUM_FILTERS]
    guesses = list(by_guess.items())[: _NUM_FILTERS - len(shown)]
    rest = f"; then best guesses ({len(guessed)} filters have one)" if guesses else ""
    words = f"{len(shown)} of {len(by_word)} words" if len(shown) < len(by_word) else f"{len(by_word)} words"
    table = make_table(f"{layer}: {words}, each with its most confident filter{rest}")
    for heading in ("word", "filters", "filter", "confidence", "AUROC", "pictures", "its other words"):
        table.add_column(heading, justify="left" if "word" in heading else "right")
    for word, own in zip(by_word, shown, strict=False):
        row = own[0]
        auroc = "" if row["auroc"] is None else f"{row['auroc']:.2f}"
        numbers = (str(len(own)), str(row["filter"]), f"{row['confidence']:.2f}", auroc, str(row["num_images"]))
        table.add_row(escape(word), *numbers, escape(", ".join(row["words"][1:_NUM_WORDS])))
    for guess, own in guesses:
        numbers = (str(len(own)), str(own[0]["filter"]), "", "", str(own[0]["num_images"]))
        table.add_row(f"guess: {escape(guess)}", *numbers, "", style="dim")
    return table


def _recall_table(
    layer: str, vocabulary: str, counts: dict[str, dict[str, int]], methods: dict[str, dict[str, dict[str, float]]]
) -> Table:
    size = counts["vocabularies"][vocabulary]
    title = f"{layer}: recall, {vocabulary} vocabulary of {size:,} words, {counts['num_pairs']} filter-picture pairs"
    table = make_table(title)
    table.add_column("method")
    at = sorted(next(iter(methods.values())), key=int)
    for s in at:
        table.add_column(f"@{s} \\[95 % interval]", justify="right")
    for method, by_s in methods.items():
        cells = [f"{by_s[s]['value']:.3f} \\[{by_s[s]['low']:.3f}, {by_s[s]['high']:.3f}]" for s in at]
        table.add_row(method.replace("_", " "), *cells)
    return table


def _analyses_tables(folder: Path, left_out: Collection[str] = ()) -> Iterator[Table]:
    """Of every kind of analysis that left its tables in the run folder.

    Args:
        left_out: names of analyses.
    """
    import pyarrow.parquet as parquet

    from lavise.tasks.analyses.analysis import list_analyses

    for analysis in list_analyses():
        if analysis.name in left_out:
            continue
        paths = [folder / table.file for table in analysis.tables]
        rows = {p.name: parquet.read_table(p).to_pylist() if p.is_file() else [] for p in paths}
        yield from map(_to_table, analysis.show(rows))


def _to_table(text: TextTable) -> Table:
    """Where there is no row, the title says so alone."""
    table = make_table(text.title)
    if not text.rows:
        table.show_header, table.box = False, None
    for place, heading in enumerate(text.headings):
        table.add_column(escape(heading), justify="right" if place in text.right else "left")
    for row in text.rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def _summarise_stages(result: RunResult) -> str:
    """How long it took, and what took longest."""
    seconds = [stage["seconds"] for stage in result.stages.values()]
    cached = sum(stage["cached"] for stage in result.stages.values())
    longest = sorted(result.stages.items(), key=lambda item: -item[1]["seconds"])[:_NUM_LONGEST]
    told = ", ".join(f"{name} {stage['seconds']:.0f} s" for name, stage in longest if stage["seconds"] >= 1)
    most = f"; the longest: {told}" if told else ""
    known = f", {cached} of them known from before" if cached else ""
    return (
        f"{len(seconds)} stages in {sum(seconds):.0f} s{known}, {result.images_decoded:,} pictures decoded"
        f"{escape(most)} (--details shows all)"
    )


def _stages_table(result: RunResult) -> Table:
    table = make_table(f"stages; {result.images_decoded} pictures decoded")
    for heading in ("stage", "digest", "", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for name, stage in result.stages.items():
        table.add_row(
            escape(name), stage["digest"][:12], "cached" if stage["cached"] else "", f"{stage['seconds']:.1f}"
        )
    return table
