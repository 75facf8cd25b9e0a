"""Errors that are the user's to mend."""


class UserError(Exception):
    """A mistake in input or settings; the message has one line per fault: what was found, what is allowed, what to do.

    The command line prints it without a stack trace and ends with exit code 2.
    """


class NoRoomError(UserError):
    """The disk has too little room for what an audit would write; nothing was begun."""


class CheckpointError(UserError):
    """The fault lies in the checkpoint itself: damaged, of another architecture, or with activations that overflow."""


class AmbiguousWeightsError(UserError):
    """A checkpoint holds several networks that fit: which one is meant has to be said; nothing is wrong with it."""
