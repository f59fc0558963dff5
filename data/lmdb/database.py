"""The container: LMDB, a B+ tree of keys and values in one file.

    pages 0, 1   magic, version, page size, root; the page of the later transaction is valid
    branch       nodes: a key, and the page that holds the keys from this one on
    leaf         nodes: a key, and its value, or the first of the separate pages that hold it

Numbers are little-endian, page numbers have 64 bits. Source: mdb.c of LMDB 0.9, data version 1.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fusedface.data.sources.records import BadRecord, MappedFile

MAGIC, VERSION = 0xBEEFC0DE, 1
PAGE = struct.Struct("<QHHHH")  # number, padding, kind, end of the pointers, end of the free space
META = struct.Struct("<IIQQ")  # magic, version, address, size of the map
TREE = struct.Struct("<IHHQQQQQ")  # page size (of the first), flags, depth, counts (4), root
TRANSACTION = struct.Struct("<QQ")  # last page, number
NODE = struct.Struct("<HHHH")  # size of the value, or page, in two or three parts; size of the key
BRANCH, LEAF, OVERFLOW, DIRTY = 1, 2, 4, 16  # kinds of pages
OWN_PAGES, OTHER_VALUES = 1, 6  # of nodes; the second: trees as values, several values of a key
EMPTY = (1 << 64) - 1  # the root of a tree without pages
MAX_DEPTH = 32
PAGE_SIZES = tuple(1 << bits for bits in range(8, 17))


class Entry(NamedTuple):
    """A key, and where in the file its value lies."""

    key: bytes
    offset: int  # bytes
    size: int  # bytes


class _Root(NamedTuple):
    page: int
    depth: int
    transaction: int


class Database(MappedFile):
    """The main tree of an LMDB file.

    Args:
        path: the file.

    Raises:
        ValueError: it is missing, is not an LMDB file, or has another version.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._page_size = 0
        self._page_size = self._tree(0, 0)[0]
        if self._page_size not in PAGE_SIZES:
            raise self._bad(0, f"its page size is {self._page_size}")
        self._root = max((self._meta(page) for page in (0, 1)), key=lambda root: root.transaction)

    def entries(self) -> Iterator[Entry]:
        """All keys in their order, byte by byte.

        Raises:
            BadRecord: a page is broken, or the keys are not in order.
        """
        self.check_unchanged()
        level = [] if self._root.page == EMPTY else [self._root.page]
        for _ in range(self._root.depth - 1):
            level = self._below(level)
        last: bytes | None = None
        for page in level:
            for entry in self._leaf(page):
                # Else a page of pointers to one node would be thousands of entries.
                if last is not None and entry.key <= last:
                    raise self._bad(entry.offset, "its key is not above the one before")
                last = entry.key
                yield entry

    def read(self, entry: Entry) -> bytes:
        """The value of a key."""
        self.check_unchanged()
        return self._map[entry.offset : entry.offset + entry.size]

    def _meta(self, page: int) -> _Root:
        start = page * self._page_size + PAGE.size
        _, flags, depth, *_, root = self._tree(page, 1)
        after = self._bytes(start + META.size + 2 * TREE.size, TRANSACTION.size)
        if flags or depth > MAX_DEPTH:
            raise self._bad(start, f"its tree has the flags {flags:#x} and the depth {depth}")
        return _Root(root, depth, TRANSACTION.unpack(after)[1])

    def _tree(self, page: int, which: int) -> tuple[int, ...]:
        """The entry of page 0 or 1 on a tree: tree 0 has the free pages, tree 1 is the main one."""
        start = page * self._page_size + PAGE.size
        magic, version, _, _ = META.unpack(self._bytes(start, META.size))
        if magic != MAGIC:
            raise ValueError(f"{self.path} is not an LMDB file: page {page} lacks its magic number")
        if version != VERSION:
            raise ValueError(f"{self.path} has LMDB's data version {version}, {VERSION} is read")
        return TREE.unpack(self._bytes(start + META.size + which * TREE.size, TREE.size))

    def _below(self, level: list[int]) -> list[int]:
        """The pages that the branch pages of one level point to."""
        below: list[int] = []
        for number in level:
            start, page, pointers = self._page(number, BRANCH)
            for pointer in pointers:
                low, middle, high, _ = self._node(start, page, pointer)
                below.append(low | middle << 16 | high << 32)
            if len(below) > self.size // self._page_size:
                raise self._bad(start, "the tree has more pages than the file")
        if len(set(below)) < len(below):
            raise self._bad(level[0] * self._page_size, "the tree has a page twice")
        return below

    def _leaf(self, number: int) -> Iterator[Entry]:
        start, page, pointers = self._page(number, LEAF)
        for pointer in pointers:
            low, high, flags, key_size = self._node(start, page, pointer)
            size, first = low | high << 16, pointer + NODE.size
            key, after = page[first : first + key_size], first + key_size
            if flags & OTHER_VALUES:
                raise self._bad(start + pointer, "a node that is not one value")
            if after + (8 if flags & OWN_PAGES else size) > len(page):
                raise self._bad(start + pointer, "a node longer than its page")
            if flags & OWN_PAGES:
                own = int.from_bytes(page[after : after + 8], "little")
                yield Entry(key, self._own_pages(own, size), size)
            else:
                yield Entry(key, start + after, size)

    def _own_pages(self, number: int, size: int) -> int:
        """Byte offset of a value that has separate pages."""
        start = number * self._page_size
        found, _, kind, _, _ = PAGE.unpack(self._bytes(start, PAGE.size))
        if found != number or kind & ~DIRTY != OVERFLOW:
            raise self._bad(start, "no page of a long value")
        self._check_inside(start + PAGE.size, size)
        return start + PAGE.size

    def _page(self, number: int, kind: int) -> tuple[int, bytes, tuple[int, ...]]:
        """Byte offset of a page, its bytes, and the offsets of its nodes."""
        start = number * self._page_size
        page = self._bytes(start, self._page_size)
        found, _, found_kind, stop, _ = PAGE.unpack_from(page)
        if found != number or found_kind & ~DIRTY != kind:
            raise self._bad(start, f"no {'leaf' if kind == LEAF else 'branch'} page of the tree")
        if not PAGE.size <= stop <= len(page) or stop % 2:
            raise self._bad(start, f"its pointers end at {stop}")
        return start, page, struct.unpack_from(f"<{(stop - PAGE.size) // 2}H", page, PAGE.size)

    def _node(self, start: int, page: bytes, pointer: int) -> tuple[int, int, int, int]:
        if pointer + NODE.size <= len(page):
            node = NODE.unpack_from(page, pointer)
            if pointer + NODE.size + node[3] <= len(page):
                return node
        raise self._bad(start + pointer, "a node longer than its page")

    def _bytes(self, start: int, size: int) -> bytes:
        self._check_inside(start, size)
        return self._map[start : start + size]

    def _check_inside(self, start: int, size: int) -> None:
        if start + size > self.size:
            reason = f"{size} bytes end past the end of the file, which has {self.size}"
            raise self._bad(start, reason)

    def _bad(self, offset: int, reason: str) -> BadRecord:
        return BadRecord(str(self.path), offset, reason)
