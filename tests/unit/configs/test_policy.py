"""Policies: what is read, what is refused and in which words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lavise.configs.errors import UserError
from lavise.configs.loading import list_presets
from lavise.configs.policy import ExpectationRule, MetricRule, Policy, WordRule, dump_policy, list_policies, load_policy

KINDS = "metric (with at_least, at_most), forbidden_words (with status, num_words) and expect (with unclear)"
EITHER = f"allowed: one of {KINDS}"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gate.yaml"
    path.write_text(text, "utf-8")
    return path


def load_rule(tmp_path: Path, rule: str) -> MetricRule | WordRule | ExpectationRule:
    return load_policy(write(tmp_path, f"name: gate\nrules: [{rule}]\n")).rules[0]


def fault_lines(tmp_path: Path, text: str) -> list[str]:
    """The lines of the error, each without the file's name in front."""
    source = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_policy(source)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{source}: ") for line in lines)
    return [line.removeprefix(f"{source}: ") for line in lines]


# ---------------------------------------------------------------- what is read


def test_both_kinds_of_rules_with_all_keys(tmp_path: Path) -> None:
    policy = load_policy(
        write(
            tmp_path,
            """
            name: release
            rules:
              - metric: share_explained
                at_least: 0.4
              - name: few changes
                metric: diff/share_changed
                at_least: 0
                at_most: 1e-1
                layer: bn2
              - forbidden_words: [face, ice cream]
                status: [changed]
                num_words: 3
                layer: bn2
            """,
        )
    )
    assert policy == Policy(
        name="release",
        rules=(
            MetricRule(metric="share_explained", at_least=0.4),
            MetricRule(name="few changes", metric="diff/share_changed", at_least=0, at_most=0.1, layer="bn2"),
            WordRule(forbidden_words=("face", "ice cream"), status=("changed",), num_words=3, layer="bn2"),
        ),
    )


def test_what_a_rule_on_words_leaves_out(tmp_path: Path) -> None:
    rule = load_rule(tmp_path, "{forbidden_words: [face]}")
    assert isinstance(rule, WordRule)
    assert (rule.status, rule.num_words, rule.layer) == (("new", "changed"), 1, None)


def test_a_single_word_stands_for_a_list_of_one(tmp_path: Path) -> None:
    rule = load_rule(tmp_path, "{forbidden_words: ' face ', status: any}")
    assert isinstance(rule, WordRule)
    assert (rule.forbidden_words, rule.status) == (("face",), ("any",))


@pytest.mark.parametrize(("status", "expected"), [("any", False), ("[new]", True), ("[new, changed]", True)])
def test_only_any_does_without_a_predecessor(tmp_path: Path, status: str, expected: bool) -> None:
    rule = load_rule(tmp_path, f"{{forbidden_words: [a], status: {status}}}")
    assert isinstance(rule, WordRule)
    assert rule.needs_predecessor is expected


@pytest.mark.parametrize(
    ("rule", "title", "allowed"),
    [
        ("{metric: m, at_least: 0.4}", "m at least 0.4", "at least 0.4"),
        ("{metric: m, at_most: 40, layer: bn2}", "m at most 40 in bn2", "at most 40"),
        ("{metric: m, at_least: 0.1, at_most: 0.5}", "m at least 0.1 and at most 0.5", "at least 0.1 and at most 0.5"),
        ("{metric: m, at_least: 0.123456789}", "m at least 0.123456789", "at least 0.123456789"),
        ("{metric: m, at_least: 1, name: mine}", "mine", "at least 1"),
        (
            "{forbidden_words: [a, b]}",
            "forbidden words a, b",
            "not among the first word of new and changed filters",
        ),
        (
            "{forbidden_words: [a, b, c, d, e], status: any, num_words: 2, layer: bn2}",
            "forbidden words a, b, c and 2 more in bn2",
            "not among the first 2 words of explained filters",
        ),
        ("{forbidden_words: [a], status: new, name: mine}", "mine", "not among the first word of new filters"),
    ],
)
def test_rules_in_words(tmp_path: Path, rule: str, title: str, allowed: str) -> None:
    found = load_rule(tmp_path, rule)
    assert (found.title, found.allowed) == (title, allowed)


def test_models_are_frozen() -> None:
    policy = load_policy("default")
    for thing in (policy, *policy.rules):
        with pytest.raises(ValidationError, match="frozen"):
            thing.name = "other"  # type: ignore[misc]


# ---------------------------------------------------------------- what comes along


def test_policies_that_come_along_are_no_presets() -> None:
    assert list_policies() == ["default"]
    assert "default" not in list_presets()


@pytest.mark.parametrize("name", list_policies())
def test_every_policy_that_comes_along_loads_under_its_own_name(name: str) -> None:
    assert load_policy(name).name == name


def test_the_default_shows_both_kinds_of_rules() -> None:
    assert {type(rule).__name__ for rule in load_policy("default").rules} == {"MetricRule", "WordRule"}


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("5", "rules.0: found 5; allowed: a mapping with metric, forbidden_words or expect"),
        ("{}", f"rules.0: found no key; {EITHER}"),
        ("{metrik: m, at_least: 1}", f"rules.0: found metrik, at_least; {EITHER}"),
        ("{metric: m, forbidden_words: [a]}", f"rules.0: found metric, forbidden_words; {EITHER}"),
        ("{metric: m}", "rules.0: no bound for 'm'; give at_least, at_most or both"),
        ("{metric: m, at_least: null}", "rules.0: no bound for 'm'; give at_least, at_most or both"),
        (
            "{metric: m, at_least: 3, at_most: 2}",
            "rules.0: at_least must not be above at_most, found 3.0 and 2.0",
        ),
        ("{metric: m, at_least: .nan}", "rules.0.at_least: found nan; allowed: input should be a finite number"),
        ("{metric: m, at_most: -.inf}", "rules.0.at_most: found -inf; allowed: input should be a finite number"),
        ("{metric: m, at_most: on}", "rules.0.at_most: found True; allowed: a number"),
        ("{metric: m, at_most: [1]}", "rules.0.at_most: found [1]; allowed: input should be a valid number"),
        ("{metric: , at_most: 1}", "rules.0.metric: found None; allowed: input should be a valid string"),
        ("{metric: ' ', at_most: 1}", "rules.0.metric: found ' '; allowed: string should have at least 1 character"),
        (
            "{metric: m, at_lest: 1}",
            "rules.0.at_lest: unknown key; allowed: name, layer, metric, at_least, at_most; did you mean at_least?",
        ),
        (
            "{metric: m, at_most: 1, num_words: 1}",
            "rules.0.num_words: unknown key; allowed: name, layer, metric, at_least, at_most",
        ),
        (
            '{metric: "a\\nb", at_most: 1}',
            r"rules.0.metric: found 'a\nb'; allowed: one line without control characters",
        ),
        (
            '{forbidden_words: ["a\\eb"]}',
            r"rules.0.forbidden_words.0: found 'a\x1bb'; allowed: one line without control characters",
        ),
        ("{metric: m, at_most: 1, layer: 5}", "rules.0.layer: found 5; allowed: input should be a valid string"),
        (
            "{metric: m, at_most: 1, name: ''}",
            "rules.0.name: found ''; allowed: string should have at least 1 character",
        ),
        ("{metric: m, at_most: 1, 1: 2}", "rules.0.1: found 1; allowed: keys should be strings"),
        ("{forbidden_words: []}", "rules.0.forbidden_words: found no word; allowed: a list of one or more"),
        (
            "{forbidden_words: [a, no]}",
            "rules.0.forbidden_words.1: found False; allowed: input should be a valid string",
        ),
        (
            "{forbidden_words: [' ']}",
            "rules.0.forbidden_words.0: found ' '; allowed: string should have at least 1 character",
        ),
        (
            "{forbidden_words: {a: b}}",
            "rules.0.forbidden_words: found {'a': 'b'}; allowed: input should be a valid tuple",
        ),
        ("{forbidden_words: [a], status: same}", "rules.0.status.0: found 'same'; allowed: 'new', 'changed' or 'any'"),
        (
            "{forbidden_words: [a], status: []}",
            "rules.0.status: found []; allowed: any alone, or a list of new and changed",
        ),
        (
            "{forbidden_words: [a], status: [any, new]}",
            "rules.0.status: found ['any', 'new']; allowed: any alone, or a list of new and changed",
        ),
        (
            "{forbidden_words: [a], num_words: 0}",
            "rules.0.num_words: found 0; allowed: input should be greater than or equal to 1",
        ),
        ("{forbidden_words: [a], num_words: yes}", "rules.0.num_words: found True; allowed: a number"),
        (
            "{forbidden_words: [a], at_most: 3}",
            "rules.0.at_most: unknown key; allowed: name, layer, forbidden_words, status, num_words",
        ),
        (
            "{forbidden_words: [a], 'tuple[x': 3}",
            "rules.0.tuple[x: unknown key; allowed: name, layer, forbidden_words, status, num_words",
        ),
    ],
)
def test_fault_of_a_rule_in_one_line(tmp_path: Path, rule: str, line: str) -> None:
    assert fault_lines(tmp_path, f"name: gate\nrules: [{rule}]\n") == [line]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("5", ["found int; allowed: a mapping with name and rules"]),
        ("{}", ["name: missing; give a value, in the file", "rules: missing; give a value, in the file"]),
        ("name: gate\nrules: []", ["rules: found []; allowed: a list of one or more rules"]),
        ("name: gate\nrules:", ["rules: found None; allowed: a list of one or more rules"]),
        ("name: gate\nrules: {metric: m}", ["rules: found {'metric': 'm'}; allowed: a list of one or more rules"]),
        (
            "name: gate\nrules: [{metric: m, at_most: 1}]\nrule: 1",
            ["rule: unknown key; allowed: name, rules; did you mean rules?"],
        ),
        (
            "name: ../up\nrules: [{metric: m, at_most: 1}]",
            ["name: found '../up'; allowed: string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$'"],
        ),
        (
            "name: gate\nrules: [{metric: m, at_most: 1, name: x}, {forbidden_words: a, name: x}]",
            ["rules: names must differ, found twice: 'x'"],
        ),
    ],
)
def test_fault_of_the_whole_in_one_line_each(tmp_path: Path, text: str, lines: list[str]) -> None:
    assert fault_lines(tmp_path, text) == lines


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    text = (
        "name: gate\nrules: [{metric: m}, {metric: m, at_most: 1}, {forbidden_words: [a], status: old, num_words: 0}]"
    )
    assert fault_lines(tmp_path, text) == [
        "rules.0: no bound for 'm'; give at_least, at_most or both",
        "rules.2.status.0: found 'old'; allowed: 'new', 'changed' or 'any'",
        "rules.2.num_words: found 0; allowed: input should be greater than or equal to 1",
    ]


def test_key_that_stands_twice(tmp_path: Path) -> None:
    (line,) = fault_lines(tmp_path, "name: gate\nrules: [{metric: m, at_most: 1, at_most: 2}]")
    assert line.startswith("not valid YAML: key 'at_most' stands twice in ")


def test_unknown_policy_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError) as caught:
        load_policy("defualt")
    assert str(caught.value) == (
        "policy: found 'defualt'; allowed: a policy (default) or a YAML file; did you mean default?"
    )


def test_a_preset_is_no_policy() -> None:
    with pytest.raises(UserError, match=r"^policy: found 'demo'; allowed: a policy \(default\) or a YAML file$"):
        load_policy("demo")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^policy: cannot read '.*none\.yaml': .*; give a policy's name or a YAML"):
        load_policy(tmp_path / "none.yaml")


# ---------------------------------------------------------------- round trip

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text
)
NAMES = st.none() | TEXTS
BOUNDS = st.floats(allow_nan=False, allow_infinity=False)


def make_metric_rule(metric: str, bounds: tuple[float, float], sides: str, layer: str | None) -> MetricRule:
    low, high = sorted(bounds)
    given: dict[str, Any] = {"at_least": low, "at_most": high}
    return MetricRule(metric=metric, layer=layer, **{side: given[side] for side in sides.split()})


RULES = st.one_of(
    st.builds(
        make_metric_rule,
        TEXTS,
        st.tuples(BOUNDS, BOUNDS),
        st.sampled_from(["at_least", "at_most", "at_least at_most"]),
        NAMES,
    ),
    st.builds(
        WordRule,
        forbidden_words=st.lists(TEXTS | st.sampled_from(["no", "1", "null", "~"]), min_size=1, max_size=4).map(tuple),
        status=st.sampled_from([("any",), ("new",), ("changed",), ("new", "changed")]),
        num_words=st.integers(1, 1000),
        layer=NAMES,
        name=NAMES,
    ),
)


@settings(max_examples=50)
@given(st.lists(RULES, min_size=1, max_size=3, unique_by=lambda rule: rule.name or object()).map(tuple))
def test_dump_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rules: tuple[MetricRule | WordRule, ...]
) -> None:
    policy = Policy(name="gate", rules=rules)
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    path.write_text(dump_policy(policy), "utf-8")
    assert load_policy(path) == policy
    assert all("\n" not in rule.allowed for rule in rules)


def test_a_rule_that_expects_words(tmp_path: Path) -> None:
    rule = load_rule(tmp_path, "{expect: {must: [dog, cat, fox, cow], must_not: watermark, by: causes}, layer: bn2}")
    assert isinstance(rule, ExpectationRule)
    assert (rule.expect.must_not, rule.unclear, rule.allowed) == (("watermark",), "fails", "as expected")
    assert rule.title == "must matter: dog, cat, fox and 1 more; must not matter: watermark in bn2"
    policy = load_policy(write(tmp_path, "name: gate\nrules: [{expect: {must: dog}, unclear: passes}]\n"))
    assert load_policy(write(tmp_path, dump_policy(policy))) == policy


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("{expect: {}}", "rules.0.expect: .*no expected word; give must, must_not or both"),
        ("{expect: {must: dog}, unclear: maybe}", "rules.0.unclear: found 'maybe'; allowed: 'fails' or 'passes'"),
        ("{expect: {must: dog, must_not: dog}}", "rules.0.expect: .*found 'dog' in must and in must_not"),
        ("{expect: {mus: dog}}", "rules.0.expect.mus: unknown key; .*did you mean must"),
    ],
)
def test_a_fault_of_what_is_expected(tmp_path: Path, rule: str, line: str) -> None:
    (found,) = fault_lines(tmp_path, f"name: gate\nrules: [{rule}]\n")
    assert re.match(line, found), found
