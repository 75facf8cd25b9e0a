"""A function that is asked in a process of its own, which other people's code may end; it is started again then.

python -m tests.other_process MODULE FUNCTION
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).parents[1]


class EndedError(Exception):
    """The process was ended, with its exit code; below zero: by that signal."""


class OtherProcess:
    """Answers of a function of JSON to JSON; `with` ends the process."""

    def __init__(self, module: str, function: str) -> None:
        self._command = [sys.executable, "-m", "tests.other_process", module, function]
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: Any) -> Any:
        """What the function answers.

        Raises:
            EndedError: the process is gone; the next question goes to a new one.
        """
        if self._process is None:
            paths = os.pathsep.join(filter(None, [str(_REPOSITORY / "src"), os.environ.get("PYTHONPATH")]))
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=_REPOSITORY,
                env={**os.environ, "PYTHONPATH": paths},
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            code = self._end()
            raise EndedError(code)
        return json.loads(answer)

    def _end(self) -> int:
        assert self._process is not None
        self._process.communicate()
        code, self._process = self._process.returncode, None
        return code

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._end()


def main() -> None:
    module, function = sys.argv[1:]
    answer = getattr(importlib.import_module(module), function)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
