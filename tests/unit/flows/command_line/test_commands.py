"""Exit codes, what stands on which stream, and that every command explains itself."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as parquet
import pytest
import typer
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner, Result

from lavise.configs.errors import UserError
from lavise.flows.command_line.commands import app
from lavise.flows.command_line.guard import guard
from lavise.storage.tracking import MlflowTracker
from lavise.tasks.words.tables import EXPLANATIONS_SCHEMA
from tests.unit.flows.helpers import UNKNOWN_RUN, make_config, make_tracker, write_run_folder
from tests.unit.tasks.helpers import write_image

COMMANDS = (
    *("run", "demo", "bias", "layers", "presets", "init", "config", "runs", "open", "up"),
    *("reaudit", "diff", "gate", "review", "expect", "report", "rerun", "doctor", "gc"),
)
UNTRACKED = ("--set", "tracking.enabled=false")
# Arguments, and a part of the answer; how click words its own is not tested.
MISTAKES = [
    (["explain"], "No such command 'explain'"),
    (["run", "demo", "--colour"], "No such option: --colour"),
    (["run", "dem"], "did you mean demo?"),
    (["run", "no.yaml"], "cannot read 'no.yaml'"),
    (["run", "demo", "--set", "seed"], "--set: found 'seed'; allowed: section.key=value"),
    (["demo", "--set", "seed=-1"], "seed: found -1"),
    (["bias", "demo"], "Missing option '--groups'"),
    (["bias", "demo", "--groups", "folder:0"], "bias.groups.level: found '0'"),
    (["bias", "demo", "--groups", "folder", "--images", "test"], "--images"),
    (["layers", "tests.unit.tasks.helpers:NoNetwork"], "NoNetwork"),
    (["layers", "other.yaml"], "cannot read 'other.yaml'"),
    (["init", "none"], "folder: found 'none', which is no folder"),
    (["config", "trian"], "key: found 'trian'; allowed: a section (model, reference"),
    (["runs", "--limit", "-1"], "--limit"),
    (["open"], "found 'latest', but there is no audit in"),
    (["open", "abcd"], "run: found 'abcd'; none in"),
    (["gate", "abcd", "--policy", "default"], "run: found 'abcd'; none in"),
    (["review", "abcd", "notes.csv"], "run: found 'abcd'; none in"),
    (["review", "latest"], "Missing argument"),
    (["expect", "abcd", "--must", "dog"], "run: found 'abcd'; none in"),
    (["expect", "latest", "--by", "feeling"], "--by"),
    (["report", "abcd", "--pdf"], "run: found 'abcd'; none in"),
    (["report", "latest", "--filters", "301"], "--filters"),
    (["up", "--prefect-port", "0"], "--prefect-port"),
    (["up", "--watch", ".", "--every", "1"], "--every"),
    (["reaudit", "demo"], "--folder, --model, --source: give one of them"),
    (["reaudit", "demo", "--folder", ".", "--alias", "new"], "--alias: found new without --model; allowed: with it"),
    (["reaudit", "demo", "--folder", ".", "--stable", "-1"], "--stable"),
    (["diff", "a"], "Missing argument"),
    (["doctor", "dmo"], "found 'dmo'; allowed: a preset"),
    (["gc", "--keep-hours", "-2"], "--keep-hours"),
]


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No server and no state folder of the developer's own."""
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "LAVISE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAVISE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


@pytest.fixture
def tracker(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowTracker:
    """The store that the commands find, too."""
    opened = make_tracker(tmp_path_factory, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(opened.uri))
    return opened


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


# Help


def test_help_lists_all_commands() -> None:
    done = invoke("--help")
    assert done.exit_code == 0
    listed = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert [word for word in listed if word in COMMANDS] == list(COMMANDS)
    assert done.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    done = invoke(command, "--help")
    assert done.exit_code == 0
    usage, _, said = done.stdout.partition("\n\n")
    assert f"{command} [OPTIONS]" in usage
    assert said.strip()[0].isupper()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_argument_and_option_is_explained(command: str) -> None:
    found: Any = typer.main.get_command(app)
    for parameter in found.commands[command].params:
        assert len(parameter.help or "") > 10, parameter.name


def test_json_is_offered_by_whatever_answers_a_question() -> None:
    offering = {command for command in COMMANDS if "--json" in invoke(command, "--help").stdout}
    assert offering == set(COMMANDS) - {"presets", "init", "open", "report", "up"}


def test_no_summary_is_cut() -> None:
    assert "..." not in invoke("--help").stdout.partition("Commands:")[2]


def test_the_version() -> None:
    done = invoke("--version")
    assert (done.exit_code, done.stdout) == (0, f"lavise {metadata.version('lavise')}\n")


@pytest.mark.parametrize(
    ("typed", "offered"), [("run de", "demo"), ("config train.obj", "train.objective"), ("open la", "latest")]
)
def test_the_shell_completes(typed: str, offered: str) -> None:
    """As bash asks: through the environment."""
    words = ["lavise", *typed.split()]
    asked = {"_LAVISE_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    script = Path(sys.executable).with_name("lavise")
    done = subprocess.run([script], env={**os.environ, **asked}, capture_output=True, text=True)
    assert offered in done.stdout.split()


# Looking things up


def test_a_setting_is_explained() -> None:
    said = " ".join(invoke("config", "train.objective").stdout.split())
    assert "cross entropy over the vocabulary" in said
    assert 'default "softmax" allowed hinge, cosine, softmax set it --set train.objective=softmax' in said


def test_sections_are_listed() -> None:
    said = invoke("config").stdout
    assert "openmoji" in said
    assert "From filters to words." in said
    every = json.loads(invoke("config", "--json").stdout)["sections"]
    assert len(every) > 30


def test_audits_are_listed_and_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run_folder(tmp_path / "state" / "runs" / UNKNOWN_RUN, make_config(tmp_path))
    assert f"{UNKNOWN_RUN[:8]}" in invoke("runs").stdout
    assert json.loads(invoke("runs", "--json").stdout)["runs"][0]["run_id"] == UNKNOWN_RUN
    assert "has no report.html" in invoke("open").stderr
    page = folder / "report.html"
    page.write_text("<p>", "utf-8")
    shown = invoke("open", UNKNOWN_RUN[:6], "--path")
    assert (shown.exit_code, shown.stdout) == (0, f"{page}\n")
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n', "utf-8")
    browser.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "lavise", "open"], env={**os.environ, "BROWSER": f"{browser} %s"}, check=True
    )
    assert done.returncode == 0
    assert (tmp_path / "opened").read_text("utf-8").strip() == page.as_uri()


# The user's mistakes


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=[" ".join(given) for given, _ in MISTAKES])
def test_mistakes_end_with_2(arguments: Sequence[str], expected: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2, done.stderr
    assert expected in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["groups", "stratify-by"])
def test_groups_of_the_command_line_are_settings(option: str) -> None:
    """What comes after them says which setting was wrong."""
    groups = {"--groups": "folder", f"--{option}": "csv:people.csv:gender,age"}
    done = invoke("bias", "demo", *UNTRACKED, *(part for pair in groups.items() for part in pair))
    assert done.exit_code == 2
    field = f"bias.{option.replace('-', '_')}.file"
    assert f"lavise: {field}: found '{Path.cwd() / 'people.csv'}', which is no file" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["gate", UNKNOWN_RUN, "--policy", "default"],
        ["rerun", UNKNOWN_RUN],
        ["diff", UNKNOWN_RUN, UNKNOWN_RUN],
    ],
    ids=lambda a: a[0],
)
def test_a_run_that_nobody_knows(tracker: MlflowTracker, tmp_path: Path, arguments: list[str]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"lavise: run: {UNKNOWN_RUN} is neither in ")
    assert str(tmp_path / "state" / "runs") in done.stderr


def test_missing_pictures_of_an_audit_are_one_line(tmp_path: Path) -> None:
    write_image(tmp_path / "target" / "a.png", 20, 20)
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nmodel: {arch: 'tests.unit.tasks.helpers:TinyNetwork', preprocessing: {size_px: 32}}\n"
        "reference: {kind: image_folder, root: no pictures}\ntarget: {kind: image_folder, root: target}\n"
        "tracking: {enabled: false}\n",
        "utf-8",
    )
    done = invoke("run", path, "--json")
    assert done.exit_code == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lavise:")]
    assert "reference.root: found" in line
    assert done.stdout == ""


# Every other end


def guarded(error: BaseException) -> Result:
    """A command that raises."""
    own = typer.Typer(pretty_exceptions_enable=False)

    def command() -> None:
        print("half of it")
        raise error

    own.command()(guard(command))
    return CliRunner().invoke(own, [])


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (UserError("seed: found x\ndevice: found y"), 2, "lavise: device: found y"),
        (KeyboardInterrupt(), 130, "lavise: stopped; what was finished is kept, the same command goes on from there"),
        (ZeroDivisionError("by zero"), 1, "lavise: failed: ZeroDivisionError: by zero"),
        (typer.Exit(3), 3, ""),
        (
            OSError(errno.ENOSPC, "No space left on device", "a\x1bb"),
            2,
            "lavise: no space is left on the disk ([Errno 28] No space left on device: 'a\\x1bb'); make room "
            "(`lavise gc` removes what no kept run needs), or set storage.root or LAVISE_HOME to another disk, and run "
            "it again: what was finished is kept",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "a"),
            2,
            "lavise: the disk, or a file on it, is read-only ([Errno 30] Read-only file system: 'a'); make it writable "
            "again (`dmesg` says why a disk no longer is), or set storage.root or LAVISE_HOME to another disk, and run "
            "it again: what was finished is kept",
        ),
    ],
    ids=["user's mistake", "Ctrl-C", "fault", "no", "full disk", "read-only disk"],
)
def test_each_way_to_end_has_its_code(error: BaseException, code: int, last: str) -> None:
    done = guarded(error)
    assert done.exit_code == code
    assert done.stdout == "half of it\n"
    assert (done.stderr.splitlines() or [""])[-1] == last


def test_every_line_of_a_mistake_bears_the_name() -> None:
    assert guarded(UserError("a: 1\nb: 2")).stderr == "lavise: a: 1\nlavise: b: 2\n"


def test_only_a_fault_of_the_program_shows_where_it_was() -> None:
    assert "Traceback" in guarded(ZeroDivisionError()).stderr
    failing = guarded(RuntimeError("Error while serializing: I/O error: Stale file handle (os error 116)"))
    assert failing.exit_code == 2
    assert failing.stderr == (
        "lavise: a file was replaced on the server (Error while serializing: I/O error: Stale file handle (os error "
        "116)); see to that disk or server, and run it again: what was finished is kept\n"
    )
    assert "Traceback" not in guarded(KeyboardInterrupt()).stderr


# Answers


def test_presets_are_the_yaml_files_that_come_along() -> None:
    done = invoke("presets")
    assert done.exit_code == 0
    folder = Path(__file__).resolve().parents[4] / "configs"
    assert done.stdout.split() == sorted(p.stem for p in folder.glob("*.yaml"))


def test_layers_of_a_network_with_their_maps() -> None:
    done = invoke("layers", "tests.unit.tasks.helpers:TinyNetwork", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1])["auto"] == "tail"
    found = {layer["name"]: layer for layer in json.loads(done.stdout.splitlines()[-1])["layers"]}
    side = 4 * found["tail"]["height"]
    assert {name: (layer["channels"], side // layer["width"]) for name, layer in found.items()} == {
        "stem": (6, 2),
        "functional.relu": (6, 2),
        "body": (8, 4),
        "body.0": (8, 4),
        "body.1": (8, 4),
        "tail": (5, 4),
    }


@pytest.mark.parametrize(("at_least", "code", "outcome"), [(0.75, 0, "passed"), (0.76, 3, "failed")])
def test_a_gate_passes_or_ends_with_3(
    tracker: MlflowTracker, tmp_path: Path, at_least: float, code: int, outcome: str
) -> None:
    """Three of four filters are explained."""
    root = tmp_path / "state"
    run = tracker.start("tiny", {})
    folder = write_run_folder(root / "runs" / run.run_id, make_config(root, tracking={"uri": tracker.uri}))
    run.end()
    policy = tmp_path / "mine.yaml"
    policy.write_text(f"name: mine\nrules:\n  - metric: share_explained\n    at_least: {at_least}\n", "utf-8")
    done = invoke("gate", folder, "--policy", policy, "--json")
    assert done.exit_code == code, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["outcome"], answer["run_id"]) == (outcome, run.run_id)
    assert json.loads((folder / "gate.json").read_text("utf-8")) == answer


@pytest.mark.parametrize(
    ("words", "code", "outcomes"),
    [
        (["--must", "dog"], 0, ["met"]),
        (["--must", "dog", "--must-not", "TREE"], 3, ["met", "broken"]),
        (["--must-not", "moon"], 0, ["unclear"]),
        (["--must", "animal", "--relatives", "forms"], 0, ["unclear"]),
        ([], 3, ["broken"]),
    ],
)
def test_words_are_expected_of_an_audit_or_ends_with_3(
    tmp_path: Path, words: list[str], code: int, outcomes: list[str]
) -> None:
    """It has filters for dog, cat and tree; of its own it expects no cat."""
    settings = make_config(tmp_path, tracking={"enabled": False}, expect={"must_not": ["cats"]})
    folder = write_run_folder(tmp_path / "runs" / ("e" * 32), settings)
    parquet.write_table(EXPLANATIONS_SCHEMA.empty_table(), folder / "explanations.parquet")
    done = invoke("expect", folder, *words, "--json")
    assert done.exit_code == code, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert [row["outcome"] for row in answer["words"]] == outcomes
    assert answer["num_broken"] == outcomes.count("broken")
    assert f"{outcomes.count('broken')} broken" in done.stdout


def test_words_that_cannot_be_expected_are_named(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "runs" / ("e" * 32), make_config(tmp_path, tracking={"enabled": False}))
    for words, line in ((["--must", "a", "--must-not", "A"], "in must and in must_not"), ([], "give some with --must")):
        done = invoke("expect", folder, *words)
        assert done.exit_code == 2
        assert done.stderr.startswith("lavise: expect: ")
        assert line in done.stderr


# A command of one's own


@pytest.fixture
def toy_commands() -> Iterator[None]:
    """Whatever a test adds is gone afterwards."""
    before = list(app.registered_commands)
    yield
    app.registered_commands[:] = before


def test_a_new_command_is_one_function(toy_commands: None) -> None:
    @app.command()
    @guard
    def count(words: list[str], most: Annotated[int, typer.Option(min=1)] = 3) -> None:
        """Count words."""
        if len(words) > most:
            raise UserError(f"words: found {len(words)}; allowed: up to {most}; leave some out, or raise --most")
        print(len(words))

    assert "Count words." in invoke("--help").stdout
    done = invoke("count", "dog", "cat")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "2\n", "")
    refused = invoke("count", "dog", "cat", "--most", "1")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == "lavise: words: found 2; allowed: up to 1; leave some out, or raise --most\n"
    assert invoke("count", "dog", "--most", "0").exit_code == 2


@pytest.mark.parametrize("command", app.registered_commands, ids=lambda c: c.callback.__name__)
def test_every_command_ends_as_the_others_do(command: Any) -> None:
    guarded_code = guard(lambda: None).__code__
    assert command.callback.__code__ is guarded_code


# Nobody reads


@pytest.mark.parametrize(
    "arguments",
    [("presets",), ("layers", "torchvision:squeezenet1_1"), ("layers", "torchvision:squeezenet1_1", "--json")],
    ids=" ".join,
)
def test_output_that_nobody_reads_ends_a_command_silently(arguments: Sequence[str], tmp_path: Path) -> None:
    """As `lavise layers MODEL | head -1` does, with a reader that is gone before the first line."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-W", "ignore", "-m", "lavise", *arguments]
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_a_fault() -> None:
    done = guarded(BrokenPipeError("a worker"))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == "lavise: failed: BrokenPipeError: a worker"


def test_layers_say_what_the_input_is(tmp_path: Path) -> None:
    """Not square, and of bands; a network of bands without their numbers asks for them."""
    text = (
        "name: mine\nreference: {kind: openmoji}\ntarget: {kind: openmoji}\n"
        "model: {arch: 'timm:resnet18', options: {in_chans: 5}, preprocessing: {size_px: [96, 64]%s}}\n"
    )
    (tmp_path / "mine.yaml").write_text(text % ", mean: [0, 0, 0, 0, 0], std: [1, 1, 1, 1, 1]")
    done = invoke("layers", str(tmp_path / "mine.yaml"))
    assert done.exit_code == 0
    assert "input 96 x 64 px, 5 channels" in " ".join(done.stdout.split())
    assert "3 x 2" in done.stdout
    (tmp_path / "mine.yaml").write_text(text % "")
    done = invoke("layers", str(tmp_path / "mine.yaml"))
    assert done.exit_code == 2
    assert "set model.preprocessing.mean and .std to 5 numbers each" in " ".join(done.stderr.split())
