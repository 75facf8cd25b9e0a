"""Files of many trainers, written by their own libraries, and what lavise makes of each.

    python -m benchmarks.producers --work FOLDER [--only NAME ...]

For each producer: a virtual environment with pinned packages, one script that trains something small through the
library (`make_NAME.py`), then every file in the table is loaded as an audit would load it. What was loaded is held
against the weights that the script had in memory. An environment or files that are in the folder already are kept.
Needs the extra transformers (uv sync --extra transformers).
Written: the table in docs/checkpoints.md and benchmarks/results/producers-DATE.json; with --only, it is only printed.
"""
