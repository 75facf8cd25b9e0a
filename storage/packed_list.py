"""Long lists of small records, kept small: what is read once and gone through in order a few times."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
_BLOCK = 64
_LEVEL = 1


class PackedList(Sequence[T], Generic[T]):
    """Items that never change, compressed in blocks of 64 and made anew whenever they are asked for.

    A picture's record with two masks takes a few hundred bytes instead of three thousand, and some ten microseconds.
    What is asked for twice is equal, not the same object. Going through it, or asking for neighbours one after the
    other, unpacks each block once. Pickle is its form in this process and in workers; it is never read from a file.
    """

    __slots__ = ("_blocks", "_num")

    def __init__(self, items: Iterable[T] = ()) -> None:
        rest, blocks, num = iter(items), list[bytes](), 0
        while block := list(islice(rest, _BLOCK)):
            blocks.append(zlib.compress(pickle.dumps(block, pickle.HIGHEST_PROTOCOL), _LEVEL))
            num += len(block)
        self._blocks, self._num = tuple(blocks), num

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[T]:
        for number in range(len(self._blocks)):
            yield from self._unpack(number)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...

    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(self._num)))
        position = index + self._num if index < 0 else index
        if not 0 <= position < self._num:
            raise IndexError(f"item {index} of {self._num}")
        global _last
        number, at = divmod(position, _BLOCK)
        blocks, known, items = _last  # all at once, so that threads cannot mix two blocks
        if blocks is not self._blocks or known != number:
            items = self._unpack(number)
            _last = (self._blocks, number, items)
        found: T = items[at]
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedList | tuple | list):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedList of {self._num} items"

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self._blocks, self._num)

    def _unpack(self, number: int) -> list[T]:
        items: list[T] = pickle.loads(zlib.decompress(self._blocks[number]))  # noqa: S301 - made above
        return items


# The block that was unpacked last: one for all lists, or each of a thousand lists would keep one.
_last: tuple[tuple[bytes, ...], int, list[Any]] = ((), -1, [])


def _restore(blocks: tuple[bytes, ...], num: int) -> PackedList[object]:
    packed = PackedList[object]()
    packed._blocks, packed._num = blocks, num
    return packed
