"""lavise: says in words, with pictures and numbers, what every filter of a CNN's layer looks for (LaViSE, CVPR 2022).

From a notebook: `lavise.run`, `lavise.open_audit` and `lavise.compare` (docs/notebook.md); nothing heavy is imported
before one of them is asked for.

The code lies in four folders: configs, storage, tasks and flows. In a checkout they stand at the top of the repository,
in an installed wheel beside this file; both are imported as lavise.configs and so on, so that folders of the same names
in a user's project are never taken for ours, nor ours for theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavise.flows.notebook import Audit, AuditComparison, FilterView, Gallery, compare, open_audit, run

__all__ = ["Audit", "AuditComparison", "FilterView", "Gallery", "compare", "open_audit", "run"]

_HERE = Path(__file__).resolve().parent
if not (_HERE / "flows").is_dir():
    __path__.append(str(_HERE.parents[1]))


def __getattr__(name: str) -> Any:
    """What notebooks use, imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'lavise' has no attribute {name!r}")
    from lavise.flows import notebook

    return getattr(notebook, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
