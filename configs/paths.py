"""Paths as users write them."""

from pathlib import Path

from lavise.configs.errors import UserError


def expand_home(path: str | Path) -> Path:
    """`~` and `~name` at the front become home folders; `./~` is a file or folder of that name.

    Raises:
        UserError: there is no such user.
    """
    if not str(path).startswith("~") and str(Path(path)).startswith("~"):
        return Path(path).absolute()  # a Path forgets the dot
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"path {str(path)!r}: its user has no home folder here; write the path out") from None
