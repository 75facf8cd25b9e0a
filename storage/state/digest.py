"""Content addresses: sha256 of settings, files and tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lavise.storage.state.progress import Progress, no_progress

if TYPE_CHECKING:
    import torch

_BLOCK_BYTES = 1 << 20


class Readable(Protocol):
    """A path, or a file inside another file."""

    def read_bytes(self) -> bytes:
        """The whole content; raises OSError."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; entries that are None are left out, so that a new optional setting does
    not change the digests of runs that do not use it."""
    return json.dumps(_without_none(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: Any) -> str:
    """sha256 (64 hex digits) of a JSON-like value."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def digest_of_each(values: Iterable[Any]) -> str:
    """`digest_of` of a list, whose values are made one after the other."""
    sha = hashlib.sha256(b"[")
    for position, value in enumerate(values):
        sha.update((("," if position else "") + canonical_json(value)).encode("ascii"))
    sha.update(b"]")
    return sha.hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(files: Mapping[str, Readable], progress: Progress = no_progress, threads: int = 4) -> str:
    """sha256 over names, sizes and content hashes of files; a file that cannot be read counts as `absent`.

    The content is read each time, on purpose: a cache of hashes keyed by name or time of change goes stale silently.
    """

    def describe(name: str) -> list[Any]:
        file = files[name]
        try:
            if isinstance(file, Path):
                return [name, file.stat().st_size, digest_file(file)]
            content = file.read_bytes()
            return [name, len(content), hashlib.sha256(content).hexdigest()]
        except OSError:
            return [name, "absent"]

    entries = []
    with ThreadPoolExecutor(threads) as pool, progress("hash files", len(files)) as bar:
        for entry in pool.map(describe, files):  # as they lie in what they are in
            entries.append(entry)
            bar.advance()
    return digest_of(sorted(entries, key=lambda entry: str(entry[0])))


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of tensors, in the order of their names."""
    import torch

    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def short(digest: str) -> str:
    """The first 12 digits, for people."""
    return digest[:12]


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_without_none(v) for v in value]
    if isinstance(value, Path):
        return value.as_posix()
    return value
