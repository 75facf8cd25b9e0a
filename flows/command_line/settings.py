"""`lavise config`: what a setting is, on the terminal; and the same for all of them, as a page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import typer
from rich.table import Table

from lavise.configs.described_settings import SettingEntry, SettingSection, find_settings, list_sections
from lavise.flows.shared.console import escape, make_console, make_table

_MUST = "must be given"


def show_settings(key: str | None, as_json: bool) -> None:
    """Explain a setting or a section; without a key, say which sections there are.

    Raises:
        UserError: no such key.
    """
    console = make_console()
    found = list_sections() if key is None else find_settings(key)
    if as_json:
        typer.echo(json.dumps({"sections": [asdict(section) for section in found]}))
    elif key is None:
        console.print(_list_sections(list_sections()))
        console.print(
            "lavise config SECTION or SECTION.SETTING says more; all are in docs/settings.md", highlight=False
        )
    elif len(found) == 1 and len(found[0].entries) == 1 and found[0].entries[0].key == key:
        _show_one(found[0].entries[0])
    else:
        for section in found:
            console.print(_describe_section(section))


def _show_one(entry: SettingEntry) -> None:
    console = make_console()
    console.print(f"[bold]{escape(entry.key)}[/]" + (f"  (of kind {escape(entry.kind)})" if entry.kind else ""))
    if entry.text:
        console.print(escape(entry.text), highlight=False)
    console.print(f"default   {_MUST if entry.default is None else escape(entry.default)}", highlight=False)
    console.print(f"allowed   {escape(entry.allowed)}", highlight=False)
    if entry.default is not None:
        console.print(f"set it    --set {escape(entry.key)}={escape(_as_argument(entry.default))}", highlight=False)


def _as_argument(default: str) -> str:
    """A value as one would write it after `--set KEY=`."""
    plain = default.strip('"')
    return f"'{default}'" if any(c in plain for c in " []{}") else plain


def _list_sections(sections: Sequence[SettingSection]) -> Table:
    table = make_table("sections of a config")
    for heading in ("section", "kinds", "what it is"):
        table.add_column(heading, overflow="fold")
    for key in dict.fromkeys(section.key for section in sections):
        own = [section for section in sections if section.key == key]
        kinds = ", ".join(section.kind for section in own if section.kind)
        text = own[0].text if not kinds else ""
        table.add_row(escape(key) or "(top)", escape(kinds), escape(text))
    return table


def _describe_section(section: SettingSection) -> Table:
    title = f"{section.key or 'top of the file'}{f', kind: {section.kind}' if section.kind else ''}: {section.text}"
    table = make_table(title)
    for heading in ("setting", "default", "allowed", "what it is"):
        table.add_column(heading, overflow="fold", min_width=10)
    for entry in section.entries:
        table.add_row(
            escape(entry.key.rpartition(".")[2]),
            _MUST if entry.default is None else escape(entry.default),
            escape(entry.allowed),
            escape(entry.text),
        )
    return table


def render_settings_page() -> str:
    """docs/settings.md: Markdown, from the schema alone."""
    lines = [
        "# Settings",
        "",
        "Made from the schema by `make settings`; `lavise config KEY` says the same on the terminal. A config is a "
        "YAML file with these sections; `--set section.key=value` changes one setting. Only `name`, `model.arch`, "
        "`reference` and `target` have to be given.",
    ]
    for section in list_sections():
        title = section.key or "Top of the file"
        lines += ["", f"## {title}{f' (kind: {section.kind})' if section.kind else ''}", "", section.text]
        if section.entries:
            lines += ["", "| setting | default | allowed | what it is |", "|---|---|---|---|"]
        for entry in section.entries:
            default = _MUST if entry.default is None else f"`{entry.default}`"
            cells = (f"`{entry.key.rpartition('.')[2]}`", default, entry.allowed, entry.text)
            lines.append("| " + " | ".join(_escape_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _escape_cell(text: str) -> str:
    """What would end the cell, or become a tag, in Markdown outside of code."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)
