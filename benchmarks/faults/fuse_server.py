"""The kernel's FUSE protocol (linux/fuse.h, 7.31): every request is handed on to a folder, but for what a network file
system does otherwise.
"""

# Names are bytes here, as the kernel gives them, and some places are descriptors: no pathlib.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH112, PTH115, PTH118, PTH208, PTH211
from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.faults.network_disk import MAX_WRITE, Behaviour

_IN_HEADER = struct.Struct("<IIQQIIIHH")
_ATTRIBUTES = struct.Struct("<6Q10I")
_RETRY_SECONDS = 0.02
_POSIX_LOCKS, _BIG_WRITES, _FLOCK_LOCKS = 1 << 1, 1 << 5, 1 << 10
_DIRECT_IO = 1
_LK_FLOCK = 1
# opcode -> name of the method
_CALLS = {
    1: "lookup", 2: "forget", 3: "getattr", 4: "setattr", 5: "readlink", 6: "symlink", 9: "mkdir", 10: "unlink",
    11: "rmdir", 12: "rename", 13: "link", 14: "open", 15: "read", 16: "write", 17: "statfs", 18: "release",
    20: "fsync", 25: "flush", 26: "init", 27: "opendir", 28: "readdir", 29: "releasedir", 30: "fsyncdir",
    31: "getlk", 32: "setlk", 33: "setlkw", 34: "access", 35: "create", 36: "interrupt", 42: "batch_forget",
    45: "rename2",
}  # fmt: skip
_NO_ANSWER = ("forget", "batch_forget", "interrupt")


@dataclass
class _Node:
    """A name that the kernel knows; `handles` are those that are open, `silly` its name after it was deleted."""

    number: int
    parent: _Node | None
    name: bytes
    children: dict[bytes, _Node] = field(default_factory=dict)
    lookups: int = 0
    handles: set[int] = field(default_factory=set)
    silly: bool = False
    gone: bool = False

    def path(self, root: bytes) -> bytes:
        return root if self.parent is None else os.path.join(self.parent.path(root), self.name)


@dataclass
class _Handle:
    descriptor: int
    node: _Node
    opened_at: float
    lost: int = 0
    entries: list[os.DirEntry[bytes]] = field(default_factory=list)


class FuseServer:
    """Answers the kernel, one request after the other."""

    def __init__(self, folder: Path, device: int, behaviour: Behaviour, fault: Path) -> None:
        self.root, self.device, self.behaviour, self.fault = os.fsencode(folder), device, behaviour, fault
        self.top = _Node(1, None, b"", lookups=1)
        self.nodes = {1: self.top}
        self.handles: dict[int, _Handle] = {}
        self.owners: dict[tuple[int, int], int] = {}
        self.waiting: dict[int, Callable[[], bytes]] = {}
        self.last_number, self.last_handle = 1, 0
        self.fault_seen: tuple[int, str] = (0, "")
        self.stale_before = 0.0

    def serve(self) -> None:
        """Until it is unmounted."""
        while True:
            ready, _, _ = select.select([self.device], [], [], _RETRY_SECONDS if self.waiting else None)
            if not ready:
                for unique, try_again in list(self.waiting.items()):
                    self._answer(unique, try_again, "setlkw")
                continue
            try:
                request = os.read(self.device, MAX_WRITE + 4096)
            except OSError as err:
                if err.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                if err.errno == errno.ENODEV:
                    return
                raise
            _, opcode, unique, number, *_ = _IN_HEADER.unpack_from(request)
            body, name = request[_IN_HEADER.size :], _CALLS.get(opcode)
            if opcode == 38:  # DESTROY
                self._reply(unique, b"")
                continue
            if name is None:
                self._reply(unique, b"", errno.ENOSYS)
                continue
            call: Callable[[int, bytes, int], bytes] = getattr(self, f"_{name}")
            self._answer(unique, partial(call, number, body, unique), name)

    def _answer(self, unique: int, call: Callable[[], bytes], name: str) -> None:
        try:
            answer = call()
        except BlockingIOError:
            if name == "setlkw":
                self.waiting[unique] = call
                return
            self._reply(unique, b"", errno.EAGAIN)
        except OSError as err:
            self.waiting.pop(unique, None)
            self._reply(unique, b"", err.errno or errno.EIO)
        else:
            self.waiting.pop(unique, None)
            if name not in _NO_ANSWER:
                self._reply(unique, answer)

    def _reply(self, unique: int, body: bytes, number: int = 0) -> None:
        with suppress(FileNotFoundError):  # who asked was interrupted
            os.write(self.device, struct.pack("<IiQ", 16 + len(body), -number, unique) + body)

    # ------------------------------------------------------------ faults

    def _read_fault(self) -> str:
        """The fault that is on; while it is `silent`, nobody gets an answer."""
        while True:
            changed = self.fault.stat().st_mtime_ns
            if changed != self.fault_seen[0]:
                self.fault_seen = (changed, self.fault.read_text("utf-8").strip())
                self.stale_before = time.monotonic() if self.fault_seen[1] == "stale" else self.stale_before
            if self.fault_seen[1] != "silent":
                return self.fault_seen[1]
            time.sleep(_RETRY_SECONDS)

    def _use(self, number: int) -> _Handle:
        """An open file, for reading or writing."""
        handle, fault = self.handles[number], self._read_fault()
        if fault.startswith("all "):
            raise OSError(getattr(errno, fault.split()[1]), "as was asked for")
        known = os.fstat(handle.descriptor).st_nlink
        if handle.opened_at < self.stale_before or (known == 0 and not handle.node.gone):
            raise OSError(errno.ESTALE, "it was replaced on the server")
        return handle

    # ------------------------------------------------------------ names

    def _path(self, number: int) -> bytes:
        return self.nodes[number].path(self.root)

    def _join(self, number: int, name: bytes) -> bytes:
        folder = self._path(number)
        return os.path.join(folder, self._find_name(folder, name))

    def _find_name(self, folder: bytes, name: bytes) -> bytes:
        if self.behaviour.fold_case and not os.path.lexists(os.path.join(folder, name)):
            folded = os.fsdecode(name).casefold()
            for other in os.listdir(folder):
                if os.fsdecode(other).casefold() == folded:
                    return other
        return name

    def _attributes(self, found: os.stat_result) -> bytes:
        mode = found.st_mode if self.behaviour.modes else found.st_mode | 0o777
        seconds = [divmod(ns, 10**9) for ns in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)]
        return _ATTRIBUTES.pack(
            *(found.st_ino, found.st_size, found.st_blocks, *(s for s, _ in seconds), *(ns for _, ns in seconds)),
            *(mode, found.st_nlink, found.st_uid, found.st_gid, 0, 4096, 0),
        )

    def _entry(self, parent: int, name: bytes) -> bytes:
        folder = self.nodes[parent]
        name = self._find_name(folder.path(self.root), name)
        found = os.lstat(os.path.join(folder.path(self.root), name))
        node = folder.children.get(name)
        if node is None:
            self.last_number += 1
            node = _Node(self.last_number, folder, name)
            self.nodes[node.number] = folder.children[name] = node
        node.lookups += 1
        valid = self.behaviour.names_cached_s
        return struct.pack("<QQQQII", node.number, 0, valid, 0, 0, 0) + self._attributes(found)

    def _lookup(self, number: int, body: bytes, unique: int) -> bytes:
        try:
            return self._entry(number, body.rstrip(b"\0"))
        except FileNotFoundError:
            if not self.behaviour.names_cached_s:
                raise
            return struct.pack("<QQQQII", 0, 0, self.behaviour.names_cached_s, 0, 0, 0) + bytes(_ATTRIBUTES.size)

    def _drop(self, number: int, times: int) -> None:
        node = self.nodes.get(number)
        if node is None or node.parent is None:
            return
        node.lookups -= times
        if node.lookups <= 0 and not node.handles and not node.children:
            del self.nodes[number]
            if node.parent.children.get(node.name) is node:
                del node.parent.children[node.name]

    def _forget(self, number: int, body: bytes, unique: int) -> bytes:
        self._drop(number, struct.unpack_from("<Q", body)[0])
        return b""

    def _batch_forget(self, number: int, body: bytes, unique: int) -> bytes:
        for place in range(struct.unpack_from("<I", body)[0]):
            self._drop(*struct.unpack_from("<QQ", body, 8 + 16 * place))
        return b""

    def _interrupt(self, number: int, body: bytes, unique: int) -> bytes:
        (other,) = struct.unpack_from("<Q", body)
        if self.waiting.pop(other, None) is not None:
            self._reply(other, b"", errno.EINTR)
        return b""

    def _stat(self, number: int) -> os.stat_result:
        node = self.nodes[number]
        if node.handles:
            return os.fstat(self.handles[next(iter(node.handles))].descriptor)
        return os.lstat(node.path(self.root))

    def _getattr(self, number: int, body: bytes, unique: int) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(self._stat(number))

    def _setattr(self, number: int, body: bytes, unique: int) -> bytes:
        valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode = struct.unpack_from(
            "<IIQQQQQQIIII", body
        )
        node = self.nodes[number]
        own = handle if valid & 1 << 6 else next(iter(node.handles), 0)
        place: int | bytes = self.handles[own].descriptor if own else node.path(self.root)
        if valid & 1:
            if not self.behaviour.modes:
                raise PermissionError(errno.EPERM, "no modes here")
            os.chmod(place, mode)
        if valid & 1 << 3:
            writable = [h for h in node.handles if _is_writable(self.handles[h].descriptor)]
            os.truncate(self.handles[writable[0]].descriptor if writable else node.path(self.root), size)
        if valid & (1 << 4 | 1 << 5):
            before, now = self._stat(number), time.time_ns()
            at = now if valid & 1 << 7 else atime * 10**9 + atime_ns if valid & 1 << 4 else before.st_atime_ns
            mt = now if valid & 1 << 8 else mtime * 10**9 + mtime_ns if valid & 1 << 5 else before.st_mtime_ns
            os.utime(place, ns=(at, mt))
        return self._getattr(number, b"", unique)

    def _access(self, number: int, body: bytes, unique: int) -> bytes:
        return b""

    def _readlink(self, number: int, body: bytes, unique: int) -> bytes:
        return os.readlink(self._path(number))

    def _symlink(self, number: int, body: bytes, unique: int) -> bytes:
        name, target = body.split(b"\0")[:2]
        os.symlink(target, self._join(number, name))
        return self._entry(number, name)

    def _mkdir(self, number: int, body: bytes, unique: int) -> bytes:
        mode, mask = struct.unpack_from("<II", body)
        name = body[8:].rstrip(b"\0")
        os.mkdir(self._join(number, name), mode & ~mask)
        return self._entry(number, name)

    def _unlink(self, number: int, body: bytes, unique: int) -> bytes:
        name = body.rstrip(b"\0")
        if not self._keep_open(number, name):
            os.unlink(self._join(number, name))
            self._lose(number, name)
        return b""

    def _rmdir(self, number: int, body: bytes, unique: int) -> bytes:
        name = body.rstrip(b"\0")
        os.rmdir(self._join(number, name))
        self._lose(number, name)
        return b""

    def _lose(self, number: int, name: bytes) -> None:
        folder = self.nodes[number]
        node = folder.children.pop(self._find_name(folder.path(self.root), name), None)
        if node is not None:
            node.gone = True

    def _keep_open(self, number: int, name: bytes) -> bool:
        """Whether a file that is open stayed under another name."""
        folder = self.nodes[number]
        node = folder.children.get(name)
        if (
            not self.behaviour.silly_rename
            or node is None
            or not any(stat.S_ISREG(os.fstat(self.handles[h].descriptor).st_mode) for h in node.handles)
        ):
            return False
        before = node.path(self.root)
        del folder.children[name]
        node.name, node.silly = b".nfs%016x" % node.number, True
        folder.children[node.name] = node
        os.rename(before, node.path(self.root))
        return True

    def _rename(self, number: int, body: bytes, unique: int, start: int = 8) -> bytes:
        (other,) = struct.unpack_from("<Q", body)
        old, new = body[start:].split(b"\0")[:2]
        source, target = self._join(number, old), self._join(other, new)
        if os.path.isdir(source) and os.path.lexists(target) and not self.behaviour.replace_folders:
            raise FileExistsError(errno.EEXIST, "a folder is there")
        if not self._keep_open(other, new) and source != target:
            self._lose(other, new)
        os.rename(source, target)
        node = self.nodes[number].children.pop(old, None)
        if node is not None:
            node.parent, node.name = self.nodes[other], new
            self.nodes[other].children[new] = node
        return b""

    def _rename2(self, number: int, body: bytes, unique: int) -> bytes:
        if struct.unpack_from("<QI", body)[1]:
            raise OSError(errno.EINVAL, "no flags")
        return self._rename(number, body, unique, 16)

    def _link(self, number: int, body: bytes, unique: int) -> bytes:
        if not self.behaviour.hard_links:
            raise PermissionError(errno.EPERM, "no hard links")
        (old,) = struct.unpack_from("<Q", body)
        name = body[8:].rstrip(b"\0")
        os.link(self._path(old), self._join(number, name))
        return self._entry(number, name)

    # ------------------------------------------------------------ files

    def _keep(self, number: int, descriptor: int) -> bytes:
        self.last_handle += 1
        node = self.nodes[number]
        self.handles[self.last_handle] = _Handle(descriptor, node, time.monotonic())
        node.handles.add(self.last_handle)
        flags = 0 if self.behaviour.shared_maps else _DIRECT_IO
        return struct.pack("<QII", self.last_handle, flags, 0)

    def _open(self, number: int, body: bytes, unique: int) -> bytes:
        self._read_fault()
        (flags,) = struct.unpack_from("<I", body)
        kept = flags & (os.O_ACCMODE | os.O_TRUNC)
        if kept & os.O_ACCMODE == os.O_WRONLY:  # locks and the kernel's own reads want more
            kept = kept & ~os.O_ACCMODE | os.O_RDWR
        node = self.nodes[number]
        if node.gone and node.handles:
            return self._keep(number, os.dup(self.handles[next(iter(node.handles))].descriptor))
        try:
            return self._keep(number, os.open(self._path(number), kept | os.O_CLOEXEC))
        except FileNotFoundError:  # the kernel knew the name, the server does not
            raise OSError(errno.ESTALE, "it is gone on the server") from None

    def _create(self, number: int, body: bytes, unique: int) -> bytes:
        self._read_fault()
        flags, mode, mask, _ = struct.unpack_from("<IIII", body)
        name = body[16:].rstrip(b"\0")
        kept = flags & (os.O_TRUNC | os.O_EXCL) | os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._join(number, name), kept, mode & ~mask)
        entry = self._entry(number, name)
        return entry + self._keep(struct.unpack_from("<Q", entry)[0], descriptor)

    def _read(self, number: int, body: bytes, unique: int) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(self._use(handle).descriptor, size, offset)

    def _write(self, number: int, body: bytes, unique: int) -> bytes:
        own, offset, size = struct.unpack_from("<QQI", body)
        handle = self._use(own)
        fault = self._read_fault()
        if fault.startswith("late "):
            handle.lost = getattr(errno, fault.split()[1])
            return struct.pack("<II", size, 0)
        return struct.pack("<II", os.pwrite(handle.descriptor, body[40 : 40 + size], offset), 0)

    def _tell_lost(self, own: int) -> None:
        """Once, as NFS does."""
        handle = self.handles[own]
        if handle.lost:
            number, handle.lost = handle.lost, 0
            raise OSError(number, "of a write before")

    def _flush(self, number: int, body: bytes, unique: int) -> bytes:
        handle, _, _, owner = struct.unpack_from("<QIIQ", body)
        descriptor = self.owners.pop((number, owner), None)
        if descriptor is not None:
            os.close(descriptor)
        self._tell_lost(handle)
        return b""

    def _fsync(self, number: int, body: bytes, unique: int) -> bytes:
        (own,) = struct.unpack_from("<Q", body)
        self._tell_lost(own)
        os.fsync(self._use(own).descriptor)
        return b""

    def _release(self, number: int, body: bytes, unique: int) -> bytes:
        (own,) = struct.unpack_from("<Q", body)
        handle = self.handles.pop(own)
        os.close(handle.descriptor)
        handle.node.handles.discard(own)
        if handle.node.silly and not handle.node.handles:
            with suppress(FileNotFoundError):
                os.unlink(handle.node.path(self.root))
            handle.node.gone = True
        self._drop(number, 0)
        return b""

    def _opendir(self, number: int, body: bytes, unique: int) -> bytes:
        opened = self._keep(number, os.open(self._path(number), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return opened[:8] + bytes(8)

    def _readdir(self, number: int, body: bytes, unique: int) -> bytes:
        own, offset, size = struct.unpack_from("<QQI", body)
        handle = self.handles[own]
        if offset == 0:
            handle.entries = list(os.scandir(self._path(number)))
        found = b""
        for place, entry in enumerate(handle.entries[offset:], offset + 1):
            kind = stat.S_IFLNK if entry.is_symlink() else stat.S_IFDIR if entry.is_dir() else stat.S_IFREG
            packed = struct.pack("<QQII", entry.inode(), place, len(entry.name), kind >> 12) + entry.name
            packed += bytes(-len(packed) % 8)
            if len(found) + len(packed) > size:
                break
            found += packed
        return found

    _releasedir = _release

    def _fsyncdir(self, number: int, body: bytes, unique: int) -> bytes:
        if not self.behaviour.sync_folders:
            raise OSError(errno.EINVAL, "folders are not synced")
        os.fsync(self.handles[struct.unpack_from("<Q", body)[0]].descriptor)
        return b""

    def _statfs(self, number: int, body: bytes, unique: int) -> bytes:
        own = os.statvfs(self.root)
        numbers = (own.f_blocks, own.f_bfree, own.f_bavail, own.f_files, own.f_ffree)
        return struct.pack("<5Q4I24x", *numbers, own.f_bsize, own.f_namemax, own.f_frsize, 0)

    # ------------------------------------------------------------ locks

    def _lock(self, number: int, body: bytes) -> bytes:
        own, owner, start, end, kind, _, flags = struct.unpack_from("<QQQQIII", body)
        if self.behaviour.locks == "refused":
            raise OSError(errno.ENOLCK, "no locks here")
        if flags & _LK_FLOCK:
            ways = {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_UNLCK: fcntl.LOCK_UN}
            fcntl.flock(self.handles[own].descriptor, ways[kind] | fcntl.LOCK_NB)
            return b""
        fcntl.fcntl(self._find_owner(number, owner), fcntl.F_OFD_SETLK, _pack_lock(kind, start, end))
        return b""

    def _find_owner(self, number: int, owner: int) -> int:
        """A descriptor for the locks of one process on one file."""
        if (number, owner) not in self.owners:
            self.owners[number, owner] = os.open(self._path(number), os.O_RDWR | os.O_CLOEXEC)
        return self.owners[number, owner]

    def _setlk(self, number: int, body: bytes, unique: int) -> bytes:
        return self._lock(number, body)

    _setlkw = _setlk

    def _getlk(self, number: int, body: bytes, unique: int) -> bytes:
        _, owner, start, end, kind, _, _ = struct.unpack_from("<QQQQIII", body)
        if self.behaviour.locks == "refused":
            raise OSError(errno.ENOLCK, "no locks here")
        found = fcntl.fcntl(self._find_owner(number, owner), fcntl.F_OFD_GETLK, _pack_lock(kind, start, end))
        return struct.pack("<QQII", start, end, struct.unpack_from("<h", found)[0], 0)

    def _init(self, number: int, body: bytes, unique: int) -> bytes:
        _, _, ahead, offered = struct.unpack_from("<IIII", body)
        wanted = _BIG_WRITES if self.behaviour.locks == "local" else _BIG_WRITES | _POSIX_LOCKS | _FLOCK_LOCKS
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, ahead, offered & wanted, 12, 9, MAX_WRITE, 1, 0, 0, 0)


def _is_writable(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _pack_lock(kind: int, start: int, end: int) -> bytes:
    length = 0 if end >= 2**63 - 1 else end - start + 1
    return struct.pack("hhxxxxqqixxxx", kind, os.SEEK_SET, start, length, 0)
