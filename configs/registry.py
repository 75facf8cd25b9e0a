"""Names that a setting takes, with what stands behind each: a function registers itself where it is written.

Settings are read before anything heavy is imported. So a registry knows the names of this version by heart, and imports
the modules that register only when it is asked for what stands behind a name, or for a name that it does not know. Such
a name may also come from an installed package that says so (`lavise.configs.extensions`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from pydantic import AfterValidator, Field

from lavise.configs.extensions import digest_outside_code, import_extensions

T = TypeVar("T")


class Registry(Generic[T]):
    """What one setting chooses from.

    Args:
        setting: for messages.
        homes: modules whose import registers.
        names: those of this version, in the order in which they are listed.
        revisions: of those of this version that give other results than they once did, a number which is raised with
            the results; only stages that use the name are computed anew then.
    """

    def __init__(
        self,
        setting: str,
        homes: tuple[str, ...],
        names: tuple[str, ...],
        revisions: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.setting, self.homes, self._names, self._revisions = setting, homes, names, revisions
        self._entries: dict[str, T] = {}
        self._code: dict[str, str] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: what stands behind a name.

        Raises:
            ValueError: something else has that name.
        """
        code = "" if name in self._names else digest_outside_code()

        def put(entry: T) -> T:
            if name in self._entries and self._entries[name] is not entry:
                raise ValueError(f"{self.setting}: {name!r} is registered twice")
            self._entries[name] = entry
            self._code[name] = code
            return entry

        return put

    def list_names(self) -> list[str]:
        """Those of this version first, then whatever else has registered.

        Raises:
            UserError: an installed package that registers cannot be imported.
        """
        self._import_homes()
        import_extensions()
        return [*self._names, *sorted(set(self._entries) - set(self._names))]

    def get(self, name: str) -> T:
        """What stands behind a name.

        Raises:
            ValueError: nothing does; names what is allowed.
            UserError: an installed package that registers cannot be imported.
        """
        if name not in self._entries:
            self._import_homes()
        if name not in self._entries:
            import_extensions()
        if name not in self._entries:
            raise ValueError(f"{self.setting}: found {name!r}; allowed: {self._list_allowed()}")
        return self._entries[name]

    def describe_code(self, *names: str) -> dict[str, dict[str, str]]:
        """For the digest of a stage: which code stands behind names that are not of this version, and the revision of
        those that have one; empty for others.

        What is of this version is kept by the versions of stages else.
        """
        for name in set(names) - set(self._names):
            self.get(name)
        stated = {**self._code, **{name: str(number) for name, number in self._revisions.items()}}
        own = {name: stated[name] for name in names if stated.get(name)}
        return {f"code of {self.setting}": own} if own else {}

    def check(self, name: str) -> str:
        """The name itself.

        Raises:
            ValueError: it is not allowed; without the setting, which the caller knows.
            UserError: an installed package that registers cannot be imported.
        """
        if name not in self._names and name not in self.list_names():
            raise ValueError(f"found {name!r}; allowed: {self._list_allowed()}")
        return name

    def _list_allowed(self) -> str:
        """As pydantic writes it: 'a', 'b' or 'c'."""
        *others, last = [repr(name) for name in self.list_names()]
        return f"{', '.join(others)} or {last}" if others else last

    @property
    def checked(self) -> AfterValidator:
        """For the type of the setting: what is no name of the registry is a fault."""
        return AfterValidator(self.check)

    @property
    def offered(self) -> Any:
        """For the type of the setting: a form offers the names of this version."""
        return Field(json_schema_extra={"enum": list(self._names)})

    def _import_homes(self) -> None:
        for home in self.homes:
            importlib.import_module(home)


ATTENTION: Registry[Any] = Registry(
    "explain.method",
    ("lavise.tasks.activations.attention",),
    ("original", "image_masking", "activation_masking", "filter_attention", "filter_attention_unnormalised"),
    revisions={"image_masking": 2},
)
OBJECTIVES: Registry[Any] = Registry(
    "train.objective", ("lavise.tasks.explainer.training",), ("hinge", "cosine", "softmax")
)
TRANSFERS: Registry[Any] = Registry(
    "transfer.method",
    ("lavise.tasks.explainer.transfer",),
    ("none", "renormalise", "align_covariance", "distil_head"),
)
RANKINGS: Registry[Any] = Registry(
    "explain.ranking",
    ("lavise.tasks.words.preferred_words", "lavise.tasks.words.voted_words"),
    ("auroc", "evidence", "frequency", "peak_weighted"),
)
