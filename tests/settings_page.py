"""Writes docs/settings.md anew from the schema (`make settings`)."""

from __future__ import annotations

from pathlib import Path

from lavise.flows.command_line.settings import render_settings_page

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"

if __name__ == "__main__":
    PAGE.write_text(render_settings_page(), encoding="utf-8")
