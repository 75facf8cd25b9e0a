#!/bin/sh
# gensim 4.4.0, numpy 2.4.6, scipy 1.17.1 (Python 3.11 or later)
#
# Seen: KeyedVectors.load_word2vec_format passes over a word that stands in the file a second time, with a warning in
# its log, but keeps the place that the header made for it: index_to_key ends in None, the matrix in a row of zeros, and
# most_similar can return None as a neighbour. A row of text that has one number where it should have three (a line that
# was cut off) is no error: the number is repeated over the whole vector. A row with two numbers is an error.
#
# Expected by most: the words that are read and nothing else (the code after reading means to shrink the matrix, "shrinking
# matrix size"), and an error for any row of another length.
#
# Why it matters to whoever audits a network: whatever goes through index_to_key meets None, and a vector of equal
# numbers is a direction like any other, so that a damaged line becomes a word that filters can be named by.
#
# guess before the run: as seen.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check gensim==4.4.0 numpy==2.4.6 scipy==1.17.1 2> pip.log
cat > run.py <<'PY'
import pathlib

from gensim.models import KeyedVectors


def load(text):
    pathlib.Path("v.txt").write_text(text)
    return KeyedVectors.load_word2vec_format("v.txt", binary=False)


twice = load("3 3\ndog 1 2 3\ncat 3 2 1\ndog 7 8 9\n")
near = [word for word, _ in twice.most_similar("dog", topn=5)]
print(f"a word twice: words {twice.index_to_key}, last row {twice.vectors[-1].tolist()}, neighbours of dog {near}")
short = load("2 3\ndog 1 2 3\ncat 7\n")
print(f"a row of one number: cat is {short['cat'].tolist()}")
try:
    load("2 3\ndog 1 2 3\ncat 7 8\n")
    is_refused = False
except ValueError as error:
    is_refused = True
    print(f"a row of two numbers: {error}")
as_seen = (
    twice.index_to_key == ["dog", "cat", None]
    and twice.vectors[-1].tolist() == [0, 0, 0]
    and None in near
    and short["cat"].tolist() == [7, 7, 7]
    and is_refused
)
raise SystemExit(0 if as_seen else "this has changed")
PY
venv/bin/python run.py
