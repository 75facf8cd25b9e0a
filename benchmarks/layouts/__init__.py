"""Labelled data sets in the layouts of many tools, written by these tools, and what lavise reads of each.

    python -m benchmarks.layouts --work FOLDER [--only NAME ...]

For each writer: a virtual environment with pinned packages and one script (`write_NAME.py`) that makes a few pictures
and has the library write them with their labels. Beside each data set the script notes what the library's own reader
makes of it (`shared.write_truth`). Then lavise reads the data set with the settings in `writers.py`, and pictures,
labels and masks are held against that. Environments and files that are in the folder already are kept. Written: the
table in docs/data.md and benchmarks/results/layouts-DATE.json; with --only, it is only printed.
"""
