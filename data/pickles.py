"""Read pickles of lists, numbers, bytes and arrays of them without running code from the file.

A pickle can run any code. So its operations are first read without being executed, and every
operation that does not build such a value is refused. Then `pickle` builds the values, with harmless
classes in place of NumPy's functions. A request for anything else is refused, with its name in the
message. Memory: about three times the file, and at most 500 MB in addition.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

# A file of one-byte operations would fill a hundred times its size. An image takes two as bytes and up
# to twenty as an array.
MAX_OPERATIONS = 5_000_000
OPERATIONS = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "LONG",
    "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET",
    "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
}  # fmt: skip
MEMO_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
DTYPES = {name: np.dtype(name) for name in ("u1", "b1", "i1", "i4", "i8")}
OBJECTS = frozenset({"O", "O4", "O8"})  # arrays of objects, whose items the pickle lists


class RefusedPickle(ValueError):  # noqa: N818  the name says what it is
    """The pickle is broken, or asks for something that is not allowed."""


class Array:
    """An array of a pickle: its type and its bytes or objects, unchanged from the file."""

    def __init__(self, dtype: "_Dtype | None" = None, data: bytes | list = b"") -> None:
        self.dtype, self.data = dtype, data

    def __setstate__(self, state: tuple) -> None:
        _, _, self.dtype, _, self.data = state

    def values(self) -> np.ndarray:
        """Its values as a flat array.

        Raises:
            RefusedPickle: they are not bytes, booleans or integers.
        """
        numpy = self.dtype.numpy if isinstance(self.dtype, _Dtype) else None
        if numpy is None or not isinstance(self.data, bytes | bytearray):
            raise RefusedPickle("it holds an array of something else than bytes or numbers")
        if len(self.data) % numpy.itemsize:
            raise RefusedPickle(f"it holds an array of {len(self.data)} bytes, cut in an element")
        return np.frombuffer(self.data, numpy)

    def items(self) -> list:
        """Its objects or values as a flat list.

        Raises:
            RefusedPickle: they are neither objects nor supported by `values`.
        """
        is_objects = isinstance(self.dtype, _Dtype) and self.dtype.numpy is None
        if is_objects and isinstance(self.data, list):
            return self.data
        return self.values().tolist()


class _Dtype:
    def __init__(self, code: str | bytes, *_: Any) -> None:
        name = code.decode("latin-1") if isinstance(code, bytes) else str(code)
        if name not in DTYPES and name not in OBJECTS:
            raise RefusedPickle(f"it holds an array of the type {name[:20]!r}")
        self.numpy = DTYPES.get(name)  # none of objects

    def __setstate__(self, state: tuple) -> None:
        if self.numpy is not None and state[1] in (">", b">"):
            self.numpy = self.numpy.newbyteorder(">")


def _reconstruct(*_: Any) -> Array:
    return Array()  # empty; its state follows


def _frombuffer(data: bytes, dtype: _Dtype, *_: Any) -> Array:
    return Array(dtype, data)


def _scalar(dtype: _Dtype, data: bytes) -> int | bool:
    return Array(dtype, data).values()[0].item()


def _encoders(most: int) -> dict[tuple[str, str], Callable[..., bytes]]:
    """What Python 3 writes bytes and bytearrays with, in protocols that have no operation for them.

    Args:
        most: bytes that they make in all. Python writes a text for each, so they are no more than the
            file; another file could ask again and again for the bytes of one text.
    """
    made = 0

    def encode(text: str, encoding: str) -> bytes:
        nonlocal made
        if encoding not in ("latin1", "latin-1"):
            raise RefusedPickle(f"it asks for the codec {encoding[:20]!r}")
        made += len(text)
        if made > most:
            raise RefusedPickle(
                f"it asks for more bytes from its texts than the {most:,} that it has"
            )
        return text.encode("latin-1")

    def as_bytes(data: str | bytes = b"", encoding: str = "latin-1") -> bytes:
        """For a bytearray; `bytearray(n)` would take n bytes."""
        if isinstance(data, str):
            return encode(data, encoding)
        if not isinstance(data, bytes):
            raise RefusedPickle(f"it asks for a bytearray of a {type(data).__name__}")
        return data

    return {
        ("_codecs", "encode"): encode,
        ("builtins", "bytearray"): as_bytes,
        ("__builtin__", "bytearray"): as_bytes,
    }


STAND_INS = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _Dtype,
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")  # before and since NumPy 2
    for module, name, function in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._stand_ins = STAND_INS | _encoders(len(data))

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return self._stand_ins[module_name, global_name]
        except KeyError:
            name = f"{module_name}.{global_name}"[:80]
            raise RefusedPickle(f"it asks for {name}, which was not run") from None


def read_pickle(data: bytes) -> Any:
    """The value of a pickle: lists, tuples, booleans, integers, text, bytes, bytearrays and `Array`.

    Reads files of Python 2 and 3, and of NumPy before and since 2.0. Python 2's text becomes bytes.

    Raises:
        RefusedPickle: it is broken, too large, or asks for anything else.
    """
    try:
        _check_operations(data)
        return _Unpickler(data).load()
    except RefusedPickle:
        raise
    except Exception as error:  # pickle and pickletools raise errors of many kinds
        raise RefusedPickle(f"it is no whole pickle: {error}") from None


def _check_operations(data: bytes) -> None:
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if operation.name not in OPERATIONS:
            raise RefusedPickle(f"it uses the operation {operation.name}")
        # A large memo index makes `pickle` allocate a table of that length.
        memo = int(argument or 0) if operation.name in MEMO_WRITES else 0
        if count >= MAX_OPERATIONS or not 0 <= memo < MAX_OPERATIONS:
            raise RefusedPickle(f"it has more than {MAX_OPERATIONS} operations")
