"""The one exception that means: the user can put this right."""


class UserError(Exception):
    """A mistake in what the user gave (settings, files, names).

    The message says what was found, what is allowed and what to do. The command line prints it without a stack
    trace and exits with 2; each line of the message is one fault.
    """
