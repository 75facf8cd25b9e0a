"""A small installed package, as a user has one: a module, and metadata that name it to lavise."""

from __future__ import annotations

from pathlib import Path

_METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"


def install_package(site: Path, name: str, module: str, text: str) -> None:
    """Put it into a folder of packages, to be found by whoever has that on the path of its imports."""
    site.mkdir(parents=True, exist_ok=True)
    (site / f"{module}.py").write_text(text, "utf-8")
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(_METADATA.format(name=name), "utf-8")
    (info / "entry_points.txt").write_text(f"[lavise.extensions]\n{module} = {module}\n", "utf-8")
