"""lavise: says in words, with pictures and numbers, what every filter of a CNN's layer looks for (LaViSE, CVPR 2022).

The code lies in four folders: configs, storage, tasks and flows. In a checkout they stand at the top of the repository,
in an installed wheel beside this file; both are imported as lavise.configs and so on, so that folders of the same names
in a user's project are never taken for ours, nor ours for theirs.
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
if not (_HERE / "flows").is_dir():
    __path__.append(str(_HERE.parents[1]))
