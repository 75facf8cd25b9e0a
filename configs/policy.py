"""What an audit must fulfil: rules on its metrics and on the words of its filters. Frozen, unknown keys forbidden."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from lavise.configs.base import Settings
from lavise.configs.errors import UserError
from lavise.configs.expectations import ExpectSettings
from lavise.configs.loading import describe_faults, list_yaml_names, parse_yaml, read_source

_SHOWN_WORDS = 3


def _refuse_bool(value: object) -> object:
    """YAML reads `yes` and `on` as true, which would count as 1."""
    if isinstance(value, bool):
        raise ValueError(f"found {value}; allowed: a number")
    return value


def _listed(value: object) -> object:
    """A single text stands for a list of one."""
    return (value,) if isinstance(value, str) else value


def _one_line(value: str) -> str:
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in value):
        raise ValueError(f"found {value!r}; allowed: one line without control characters")
    return value


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_one_line)]
Bound = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_refuse_bool)]


class _Rule(Settings):
    """What all kinds of rules have."""

    name: Text | None = None
    """How verdicts call the rule; None makes a name from its content."""
    layer: Text | None = None
    """None: the rule holds for every layer of the run, each on its own."""

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, data: object) -> object:
        if isinstance(data, _Rule):
            return data
        if not isinstance(data, Mapping):
            raise ValueError(f"found {data!r}; allowed: a mapping with metric, forbidden_words or expect")
        given = [key for key in ("metric", "forbidden_words", "expect") if key in data]
        if len(given) != 1:
            keys = ", ".join(map(str, data)) or "no key"
            raise ValueError(
                f"found {keys}; allowed: one of metric (with at_least, at_most), forbidden_words (with status, "
                "num_words) and expect (with unclear)"
            )
        return data

    @property
    def _where(self) -> str:
        return f" in {self.layer}" if self.layer else ""


class MetricRule(_Rule):
    """A metric of the run stays within bounds, which themselves are allowed."""

    metric: Text
    """As in metrics.json (`mean_confidence`, `closed/filter_attention/recall_at_5`), `share_explained`, or `diff/NAME`
    for a number of the comparison with the predecessor."""
    at_least: Bound | None = None
    at_most: Bound | None = None

    @model_validator(mode="after")
    def _some_range(self) -> MetricRule:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"no bound for {self.metric!r}; give at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least must not be above at_most, found {self.at_least} and {self.at_most}")
        return self

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        bounds = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{side} {_shorten(bound)}" for side, bound in bounds if bound is not None)

    @property
    def title(self) -> str:
        """The name, or the content in one line."""
        return self.name or f"{self.metric} {self.allowed}{self._where}"


class WordRule(_Rule):
    """No explained filter is named by one of these words."""

    forbidden_words: tuple[Text, ...]
    """Whole words or phrases, upper and lower case alike; `face` does not forbid `surface`."""
    status: tuple[Literal["new", "changed", "any"], ...] = ("new", "changed")
    """Filters that are looked at, by what the comparison with the predecessor says of them; `any`: all of them, with
    or without a predecessor. `new` and `changed` are about what a filter responds to, not about its words."""
    num_words: Annotated[int, Field(ge=1), BeforeValidator(_refuse_bool)] = 1
    """So many of a filter's first words are looked at, as far as the run keeps them. The first one is the one that the
    filter's pictures were found to agree on; the others are weaker evidence."""

    _one_word = field_validator("forbidden_words", "status", mode="before")(_listed)

    @field_validator("forbidden_words")
    @classmethod
    def _some_word(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("found no word; allowed: a list of one or more")
        return value

    @field_validator("status")
    @classmethod
    def _some_status(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or ("any" in value and len(value) > 1):
            raise ValueError(f"found {list(value)}; allowed: any alone, or a list of new and changed")
        return value

    @property
    def needs_predecessor(self) -> bool:
        """Whether only a comparison tells which filters are meant."""
        return self.status != ("any",)

    @property
    def allowed(self) -> str:
        """The rule in words."""
        words = "first word" if self.num_words == 1 else f"first {self.num_words} words"
        filters = "explained filters" if not self.needs_predecessor else f"{' and '.join(self.status)} filters"
        return f"not among the {words} of {filters}"

    @property
    def title(self) -> str:
        """The name, or the content in one line."""
        return self.name or f"forbidden words {_list_some(self.forbidden_words)}{self._where}"


class ExpectationRule(_Rule):
    """Words matter, or do not, as expected."""

    expect: ExpectSettings
    """As in the section `expect` of a config; an audit does not need such a section to be judged by this."""
    unclear: Literal["fails", "passes"] = "fails"
    """What becomes of the rule where it cannot be told whether a word matters."""

    @field_validator("expect")
    @classmethod
    def _some_word(cls, value: ExpectSettings) -> ExpectSettings:
        if not value.words:
            raise ValueError("no expected word; give must, must_not or both")
        return value

    @property
    def allowed(self) -> str:
        """The rule in words."""
        return "as expected" if self.unclear == "fails" else "as expected, or not to be told"

    @property
    def title(self) -> str:
        """The name, or the content in one line."""
        sides = (("must", self.expect.must), ("must not", self.expect.must_not))
        said = "; ".join(f"{side} matter: {_list_some(words)}" for side, words in sides if words)
        return self.name or f"{said}{self._where}"


def _list_some(words: tuple[str, ...]) -> str:
    more = len(words) - _SHOWN_WORDS
    return ", ".join(words[:_SHOWN_WORDS]) + (f" and {more} more" if more > 0 else "")


def _choose_class(data: Any) -> str:
    """By the key that only one kind has; what has none is told so by `_Rule`."""
    if not isinstance(data, Mapping):
        return type(data).__name__ if isinstance(data, WordRule | ExpectationRule) else MetricRule.__name__
    if "expect" in data:
        return ExpectationRule.__name__
    return WordRule.__name__ if "forbidden_words" in data else MetricRule.__name__


Rule = Annotated[
    Annotated[MetricRule, Tag("MetricRule")]
    | Annotated[WordRule, Tag("WordRule")]
    | Annotated[ExpectationRule, Tag("ExpectationRule")],
    Discriminator(_choose_class),
]


class Policy(Settings):
    """Rules that pass or fail an audit; it passes if none fails."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    rules: tuple[Rule, ...]

    @field_validator("rules", mode="before")
    @classmethod
    def _some_rule(cls, value: object) -> object:
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"found {value!r}; allowed: a list of one or more rules")
        return value

    @field_validator("rules")
    @classmethod
    def _different_names(cls, value: tuple[Rule, ...]) -> tuple[Rule, ...]:
        names = [rule.name for rule in value if rule.name]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"names must differ, found twice: {', '.join(map(repr, twice))}")
        return value


def list_policies() -> list[str]:
    """Names of the policies that come with the package, sorted."""
    return list_yaml_names(_policy_folder())


def load_policy(path: str | Path) -> Policy:
    """Read and check a policy.

    Args:
        path: the name of a policy that comes with the package, or the path of a YAML file.

    Raises:
        UserError: one line for each fault, with what was found and what is allowed.
    """
    label, text = read_source(str(path), "policy", "policy", _policy_folder())
    data = parse_yaml(label, text, "a mapping with name and rules")
    try:
        return Policy.model_validate(data)
    except ValidationError as err:
        raise UserError(describe_faults(err, label, Policy, "in the file")) from None


def dump_policy(policy: Policy) -> str:
    """YAML that `load_policy` reads back to an equal Policy."""
    return yaml.safe_dump(policy.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def _policy_folder() -> Traversable:
    return resources.files("lavise.configs").joinpath("policies")


def _shorten(bound: float) -> str:
    """Without the digits that do not matter: 0.4, 40."""
    short = f"{bound:g}"
    return short if float(short) == bound else repr(bound)
