from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lavise.configs.errors import UserError
from lavise.storage.state import artefacts
from lavise.storage.state.artefacts import ArtefactStore, Handle, compute_stage_digest
from lavise.storage.state.files import write_atomically, write_json

ROOT = Path(__file__).resolve().parents[4]
SETTINGS: dict[str, Any] = {"quantile": 0.995, "scheduler": None}
INPUTS = {"model": "ab" * 32}
DIGEST = compute_stage_digest("statistics", 1, SETTINGS, INPUTS)


def publish(store: ArtefactStore, files: dict[str, bytes], digest: str = DIGEST) -> Handle:
    folder = store.partial_folder("statistics", digest, keep=False)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return store.publish("statistics", 1, digest, SETTINGS, INPUTS, {"num_images": 3})


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of its own that imports the project."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


# Digests


def test_digest_is_stable() -> None:
    assert compute_stage_digest("statistics", 1, {"scheduler": None, "quantile": 0.995}, dict(INPUTS)) == DIGEST
    assert len(DIGEST) == 64


def test_digest_depends_on_all_that_the_result_depends_on() -> None:
    others = [
        compute_stage_digest("statistics", 2, SETTINGS, INPUTS),
        compute_stage_digest("extract", 1, SETTINGS, INPUTS),
        compute_stage_digest("statistics", 1, {**SETTINGS, "quantile": 0.99}, INPUTS),
        compute_stage_digest("statistics", 1, {}, INPUTS),
        compute_stage_digest("statistics", 1, SETTINGS, {"model": "cd" * 32}),
        compute_stage_digest("statistics", 1, SETTINGS, {"weights": "ab" * 32}),
        compute_stage_digest("statistics", 1, SETTINGS, {**INPUTS, "data": "ab"}),
    ]
    assert len({DIGEST, *others}) == 8


def test_new_optional_setting_does_not_change_the_digest() -> None:
    assert compute_stage_digest("statistics", 1, {**SETTINGS, "new": None}, INPUTS) == DIGEST


# Handles


def test_publish_and_find(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    assert store.find("statistics", DIGEST) is None
    handle = publish(store, {"a.npy": b"one", "sub/b.json": b"{}"})
    assert sorted(handle.files) == ["a.npy", "sub/b.json"]
    assert handle.path("sub/b.json").read_bytes() == b"{}"
    assert handle.folder == tmp_path / "artefacts" / "statistics" / DIGEST[:24]
    assert handle.files["a.npy"].size == 3
    assert store.find("statistics", DIGEST) == handle
    assert ArtefactStore(tmp_path).find("statistics", DIGEST) == handle
    assert Handle.model_validate_json(handle.model_dump_json()) == handle


def test_handle_is_frozen_and_knows_its_files(tmp_path: Path) -> None:
    handle = publish(ArtefactStore(tmp_path), {"a.npy": b"one"})
    with pytest.raises(ValidationError, match="frozen"):
        handle.digest = "x"  # type: ignore[misc]
    with pytest.raises(KeyError, match=rf"statistics {DIGEST[:12]} has no file 'b\.npy'; it has \['a\.npy'\]"):
        handle.path("b.npy")


def test_find_after_the_state_folder_was_moved(tmp_path: Path) -> None:
    publish(ArtefactStore(tmp_path / "old"), {"a.npy": b"one"})
    (tmp_path / "old").rename(tmp_path / "new")
    handle = ArtefactStore(tmp_path / "new").find("statistics", DIGEST)
    assert handle is not None
    assert handle.path("a.npy").read_bytes() == b"one"


def test_find_notices_a_deleted_file(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    publish(store, {"a.npy": b"one", "b.npy": b"two"}).path("b.npy").unlink()
    assert store.find("statistics", DIGEST) is None


@pytest.mark.parametrize("content", [b"onE", b"one ", b""])
def test_find_notices_an_altered_file(tmp_path: Path, content: bytes) -> None:
    store = ArtefactStore(tmp_path)
    publish(store, {"a.npy": b"one"}).path("a.npy").write_bytes(content)
    assert store.find("statistics", DIGEST) is None


def test_find_notices_a_flipped_byte_in_a_large_file(tmp_path: Path) -> None:
    """Pooled features (.npy) and explainers (.safetensors) grow above any limit, and have no checksums of their own."""
    store = ArtefactStore(tmp_path)
    path = publish(store, {"features.npy": bytes(9 << 20)}).path("features.npy")
    assert store.find("statistics", DIGEST) is not None
    with path.open("rb+") as file:
        file.seek(5 << 20)
        file.write(b"\1")
    assert store.find("statistics", DIGEST) is None


def test_find_notices_a_truncated_large_file(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    path = publish(store, {"features.npy": bytes(9 << 20)}).path("features.npy")
    os.truncate(path, (9 << 20) - 1)
    assert store.find("statistics", DIGEST) is None


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "\xff"])
def test_damaged_handle_counts_as_absent(tmp_path: Path, text: str) -> None:
    store = ArtefactStore(tmp_path)
    handle = publish(store, {"a.npy": b"one"})
    (handle.folder / "handle.json").write_text(text, "latin-1")
    assert store.find("statistics", DIGEST) is None


def test_handle_of_another_digest_counts_as_absent(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    publish(store, {"a.npy": b"one"})
    same_folder = DIGEST[:24] + "0" * 40
    assert store.find("statistics", same_folder) is None


def test_damaged_artefact_can_be_made_again(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    publish(store, {"a.npy": b"one", "old.npy": b"x"}).path("a.npy").unlink()
    handle = publish(store, {"a.npy": b"one"})
    assert store.find("statistics", DIGEST) == handle
    assert sorted(p.name for p in handle.folder.iterdir()) == ["a.npy", "handle.json"]


def test_state_folder_is_private(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "state")
    assert store.root.stat().st_mode & 0o777 == 0o700
    assert store.partial_folder("extract", DIGEST, keep=False).stat().st_mode & 0o777 == 0o700


def test_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    expected = r"^storage\.root: cannot write to .*file.* \(.*\); set another storage\.root or LAVISE_HOME$"
    with pytest.raises(UserError, match=expected):
        ArtefactStore(tmp_path / "file")


# Partial folders


def test_partial_folder_is_kept_or_emptied(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    folder = store.partial_folder("extract", DIGEST, keep=False)
    (folder / "shard-000000.h5").write_bytes(b"x")
    assert store.partial_folder("extract", DIGEST, keep=True) == folder
    assert (folder / "shard-000000.h5").exists()
    assert list(store.partial_folder("extract", DIGEST, keep=False).iterdir()) == []


def test_partial_folder_is_not_found(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    folder = store.partial_folder("statistics", DIGEST, keep=False)
    (folder / "a.npy").write_bytes(b"one")
    assert store.find("statistics", DIGEST) is None


def test_publish_kills_nothing_of_the_old_result_before_the_new_is_whole(tmp_path: Path) -> None:
    """The old artefact stays whole while the new one is still being made."""
    store = ArtefactStore(tmp_path)
    handle = publish(store, {"a.npy": b"one"})
    folder = store.partial_folder("statistics", DIGEST, keep=False)
    (folder / "a.npy").write_bytes(b"two")
    assert store.find("statistics", DIGEST) == handle


@pytest.mark.parametrize("intact", [True, False])
def test_what_another_client_has_published_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, intact: bool
) -> None:
    """As on a network file system (tests/unit/benchmarks/test_network_disk.py): it is in the way of the rename only."""
    replace = os.replace
    monkeypatch.setattr(artefacts, "_LOOK_AGAIN_SECONDS", 0.01)

    def come_first(source: Path, target: Path) -> None:
        if target == tmp_path / "artefacts" / "statistics" / DIGEST[:24]:
            monkeypatch.setattr("lavise.storage.state.artefacts.os.replace", replace)
            shutil.copytree(source, target)
            (target / "other").touch()
            if not intact:
                (target / "a.npy").write_bytes(b"damaged")
        replace(source, target)

    monkeypatch.setattr("lavise.storage.state.artefacts.os.replace", come_first)
    made = publish(ArtefactStore(tmp_path), {"a.npy": b"1234"})
    assert made.path("a.npy").read_bytes() == b"1234"
    assert (made.folder / "other").exists() is intact
    assert [p.name for p in made.folder.parent.iterdir()] == [DIGEST[:24]]


def test_publish_shows_all_files_at_once(tmp_path: Path) -> None:
    """Whoever looks while an artefact is published sees no folder, or all of its files; never a part."""
    store = ArtefactStore(tmp_path)
    final = store.root / "statistics" / DIGEST[:24]
    seen: set[int] = set()

    def look() -> None:
        end = time.monotonic() + 30
        while max(seen, default=0) < 301 and time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError):
                seen.add(len(list(final.iterdir())))

    watcher = threading.Thread(target=look)
    watcher.start()
    publish(store, {f"{i}.bin": bytes(2000) for i in range(300)})
    watcher.join()
    assert seen == {301}


def test_publish_is_whole_or_nothing_under_kill(tmp_path: Path) -> None:
    """A process is killed with -9 at different moments of publishing; what is found then is whole, or nothing."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lavise.storage.state.artefacts import ArtefactStore\n"
        "store = ArtefactStore(Path(sys.argv[1]))\n"
        "for n in range(100000):\n"
        "    digest = f'{n:064d}'[::-1]\n"
        "    folder = store.partial_folder('s', digest, keep=False)\n"
        "    for i in range(20):\n"
        "        (folder / f'{i}.bin').write_bytes(bytes([n % 256]) * 5000)\n"
        "    store.publish('s', 1, digest, {}, {}, {'n': n})\n"
        "    print(n, flush=True)\n"
    )
    store = ArtefactStore(tmp_path)
    for delay_seconds in (0.0, 0.003, 0.006, 0.009):
        process = start(code, str(tmp_path))
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ["0\n", "1\n", "2\n"]
        time.sleep(delay_seconds)
        process.kill()
        process.communicate()
        folders = [p for p in (store.root / "s").iterdir() if p.is_dir() and p.suffix != ".partial"]
        assert len(folders) >= 3
        for folder in folders:
            handle = Handle.model_validate_json((folder / "handle.json").read_text())
            assert len(handle.files) == 20
            assert store.find("s", handle.digest) is not None


# Locks


def test_lock_excludes_a_second_process(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from lavise.storage.state.artefacts import ArtefactStore\n"
        "print('waiting', flush=True)\n"
        "with ArtefactStore(Path(sys.argv[1])).lock('s', sys.argv[2]):\n"
        "    print('inside', time.monotonic(), flush=True)\n"
    )
    store = ArtefactStore(tmp_path)
    with store.lock("s", DIGEST):
        process = start(code, str(tmp_path), DIGEST)
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.4)
        released = time.monotonic()
    word, moment = process.communicate(timeout=30)[0].split()
    assert word == "inside"
    assert float(moment) >= released
    assert process.returncode == 0


def test_locks_of_other_artefacts_do_not_wait(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    with store.lock("s", DIGEST), store.lock("t", DIGEST), store.lock("s", "0" * 64):
        assert len(list(store.root.rglob("*.lock"))) == 3


def test_lock_is_freed_by_an_exception(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    with pytest.raises(RuntimeError, match="inside"), store.lock("s", DIGEST):
        raise RuntimeError("inside")
    with store.lock("s", DIGEST):
        assert store.find("s", DIGEST) is None


def test_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from lavise.storage.state.artefacts import ArtefactStore\n"
        "with ArtefactStore(Path(sys.argv[1])).lock('s', sys.argv[2]):\n"
        "    print('inside', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = start(code, str(tmp_path), DIGEST)
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    begin = time.monotonic()
    with ArtefactStore(tmp_path).lock("s", DIGEST):
        assert time.monotonic() - begin < 5


# Files


def test_write_atomically_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    write_atomically(path, "new ü")
    assert path.read_text("utf-8") == "new ü"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_write_atomically_keeps_the_old_text_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half\ud800")
    assert path.read_text("utf-8") == "old"


def test_write_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": ["ü"]})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n "a": [\n  "ü"\n ],\n "b": 1\n}'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert not (tmp_path / "b.json").exists()
