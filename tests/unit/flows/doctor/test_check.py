"""What a check says: in one line, of bearable length, in time, and with the settings that hold where it is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from lavise.configs.errors import UserError
from lavise.flows.doctor.check import CHECKOUT, Check, Report, describe_error, ok, run_check


def tell(*checks: Check) -> Report:
    """The findings of a check that ends well."""
    return run_check("check", lambda: checks)


def raise_it(error: BaseException) -> Check:
    def look() -> Report:
        raise error

    (found,) = run_check("check", look)
    return found


def test_a_mistake_without_advice_gets_some() -> None:
    found = raise_it(UserError("device: found 'tpu'"))
    assert (found.status, found.found, found.advice) == (
        "failed",
        "device: found 'tpu'",
        "set it right in the settings",
    )


def test_only_the_first_part_of_a_mistake_is_what_was_found() -> None:
    found = raise_it(UserError("a: found 1;2; allowed: 3; do that"))
    assert (found.found, found.advice) == ("a: found 1;2", "allowed: 3; do that")


def test_lines_are_joined_and_spaces_made_one() -> None:
    assert tell(Check("x", "warning", " two\n\n  lines\t", "do\nthis ")) == [
        Check("x", "warning", "two lines", "do this")
    ]


def test_a_long_finding_is_cut_and_advice_is_not() -> None:
    """Advice may be a command, which is no use without its end."""
    (found,) = tell(Check("x", "failed", "f" * 1000, "a" * 1000))
    assert 400 <= len(found.found) < 420
    assert found.found.endswith("f ...")
    assert found.advice == "a" * 1000


def test_a_finding_of_just_that_length_is_whole() -> None:
    (found,) = tell(Check("x", "failed", "f" * 400, ""))
    assert found.found == "f" * 400


@pytest.mark.parametrize(
    "error", [OSError("no route to http://me:secret@host"), UserError("http://me:secret@host: no")]
)
def test_passwords_in_errors_are_not_shown(error: Exception) -> None:
    found = raise_it(error)
    assert "http://host" in found.found
    assert "secret" not in f"{found}"


def test_what_was_found_in_time_is_kept() -> None:
    """And what comes later is not added."""
    release, ended = threading.Event(), threading.Event()

    def look() -> Iterator[Check]:
        try:
            yield ok("first", "fine")
            release.wait(10)
            yield ok("late", "fine")
        finally:
            ended.set()

    found = run_check("slow", look, 0.1)
    try:
        assert [(c.name, c.status) for c in found] == [("first", "ok"), ("slow", "failed")]
        assert found[1].found == "not finished within 0.1 s"
    finally:
        release.set()
    assert ended.wait(10)
    assert len(found) == 2


def test_a_check_sees_the_settings_of_whoever_asks() -> None:
    """Prefect keeps its own in a context variable; what a check sets there stays with it."""
    setting: ContextVar[str] = ContextVar("setting", default="unset")
    token = setting.set("of the test")

    def look() -> Iterator[Check]:
        yield ok("setting", setting.get())
        setting.set("of the check")

    try:
        assert run_check("setting", look) == [Check("setting", "ok", "of the test", "")]
        assert setting.get() == "of the test"
    finally:
        setting.reset(token)


def test_a_check_that_finds_nothing_says_nothing() -> None:
    assert tell() == []


def test_all_is_well_without_advice() -> None:
    assert ok("git", "2.43") == Check("git", "ok", "2.43", "")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("two\n lines"), "two lines"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (ValueError("x" * 500), "x" * 200),
    ],
)
def test_errors_in_a_line(error: Exception, expected: str) -> None:
    assert describe_error(error) == expected


def test_the_checkout_is_where_the_settings_lie() -> None:
    assert (CHECKOUT / "configs" / "demo.yaml").is_file()
    assert (CHECKOUT / "pyproject.toml").is_file()
