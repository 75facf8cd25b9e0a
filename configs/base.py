"""What all settings are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from lavise.configs.errors import UserError
from lavise.configs.paths import expand_home


def _expand(path: Path) -> Path:
    try:
        return expand_home(path)
    except UserError as err:
        raise ValueError(str(err)) from None


UserPath = Annotated[Path, AfterValidator(_expand)]
"""A path in which a leading `~` is the home folder."""


class Settings(BaseModel):
    """Base of all sections: immutable, and a key that is not listed is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())
