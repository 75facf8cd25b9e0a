"""Messages quote what was found, which is somebody else's text."""

from __future__ import annotations

import pickle

from hypothesis import given, settings
from hypothesis import strategies as st

from lavise.configs.errors import CheckpointError, UserError


@settings(max_examples=25, derandomize=True)
@given(st.text())
def test_no_text_reaches_the_terminal_as_it_is(text: str) -> None:
    lines = str(UserError(f"field: found {text}")).split("\n")
    assert len(lines) == text.count("\n") + 1
    assert all(line.isprintable() for line in lines)


def test_controls_are_escaped_and_lines_kept() -> None:
    assert str(UserError("a: \x1b[31mred\r\nb: two\u2028lines")) == "a: \\x1b[31mred\\r\nb: two\\u2028lines"


def test_of_an_endless_line_begin_and_end_are_kept() -> None:
    message = f"field: found {'9' * 100_000}; allowed: 1 to 9"
    said = str(UserError(message))
    assert len(said) < 1100
    assert said.startswith("field: found 999")
    assert said.endswith("9; allowed: 1 to 9")
    assert str(UserError("9" * 1000)) == "9" * 1000


def test_errors_pass_between_processes() -> None:
    error = pickle.loads(pickle.dumps(CheckpointError("model.weights: \x1b")))
    assert type(error) is CheckpointError
    assert str(error) == "model.weights: \\x1b"
