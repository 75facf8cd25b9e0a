"""Errors that are the user's to mend."""

_MAX_LINE_CHARS = 1000
_KEPT_AT_END = 300


class UserError(Exception):
    """A mistake in input or settings; the message has one line per fault: what was found, what is allowed, what to do.

    The command line prints it without a stack trace and ends with exit code 2. Since a message may quote whatever was
    found, what a terminal would act upon is escaped, and of a line without end the middle is left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__("\n".join(_make_plain(line) for line in message.split("\n")))


def _make_plain(line: str) -> str:
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    if len(plain) <= _MAX_LINE_CHARS:
        return plain
    return f"{plain[: _MAX_LINE_CHARS - _KEPT_AT_END]} ... {plain[-_KEPT_AT_END:]}"


class NoRoomError(UserError):
    """The disk has too little room for what an audit would write; nothing was begun."""


class CheckpointError(UserError):
    """The fault lies in the checkpoint itself: damaged, of another architecture, or with activations that overflow."""


class AmbiguousWeightsError(UserError):
    """A checkpoint holds several networks that fit: which one is meant has to be said; nothing is wrong with it."""
