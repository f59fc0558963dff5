"""Compile loops in C to a library, if there is a C compiler, and keep it in the cache.

Nothing is downloaded. A kept library runs inside this process, so it is used only if nobody else can have
written it: its file and folder belong to this user, and no one else may write to them. Its name holds a
hash of the source and of the options, so that another version or processor gets another file.
"""

import contextlib
import functools
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from fusedface.kernels.chunks.library import Library
from fusedface.kernels.interface.cache_folder import cache_folder

OPTIONS = ("-O3", "-std=gnu11", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-c")
OF_PROCESSOR = {
    "AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "AVX2": ("-march=x86-64-v3",),
}
COMPILERS = ("gcc", "cc")
SECONDS = 60  # that a compiler may take; it takes one


Called = TypeVar("Called")


@dataclass(frozen=True)
class Source(Generic[Called]):
    """A name, C files that are compiled as one, in order, and the class that takes the library's path."""

    name: str
    files: tuple[Path, ...]
    wrapper: Callable[[str], Called]

    def text(self) -> bytes:
        """What is compiled."""
        return b"\n".join(file.read_bytes() for file in self.files)


PASSES = Source("passes", tuple(map(Path(__file__).with_name, ("passes.c", "rows.c"))), Library)


class NotBuiltError(Exception):
    """The library cannot be built; the message says why."""


@functools.cache
def library() -> Library | None:
    """The library of a head's passes; see `load`."""
    return load(PASSES)


def load(source: Source[Called]) -> Called | None:
    """The library, compiled on the first call on a machine; None if that fails (`state` says why)."""
    try:
        return _found(source)
    except NotBuiltError:
        return None


def state(source: Source[Any] = PASSES) -> str:
    """The result of `load` and its reason, for `doctor`; compiles it if that was not done yet."""
    try:
        _found(source)
        kept = _kept(source)
    except NotBuiltError as error:
        return f"torch's operators: {error}"
    if is_only_ours(kept):
        return f"compiled loops: {kept}"
    return f"compiled loops: each process makes them, as {kept.parent} is not writable by this user only"


def _found(source: Source[Called]) -> Called:
    setting = os.environ.get("FUSEDFACE_CC")
    if setting == "":
        raise NotBuiltError("FUSEDFACE_CC is empty")
    kept = _kept(source)
    if is_only_ours(kept):
        with contextlib.suppress(OSError, AttributeError):  # damaged: it is made again
            return source.wrapper(str(kept))
    return _built(source, _compiler(setting), kept)


def _options() -> tuple[str, ...]:
    capability = torch.backends.cpu.get_cpu_capability()
    if sys.platform != "linux" or capability not in OF_PROCESSOR:
        raise NotBuiltError("they are for Linux on processors with AVX2 or AVX-512")
    return (*OPTIONS, *OF_PROCESSOR[capability])


def _kept(source: Source[Called]) -> Path:
    try:
        return cache_folder().absolute() / file_name(source)
    except OSError as error:
        raise NotBuiltError(str(error)) from None


def file_name(source: Source[Any] = PASSES) -> str:
    """Name of the library for a source and this processor.

    Raises:
        NotBuiltError: there are no options for this processor.
    """
    made_of = source.text() + "\0".join(_options()).encode()
    return f"{source.name}-{hashlib.sha256(made_of).hexdigest()[:20]}.so"


def _compiler(setting: str | None) -> list[str]:
    for command in [setting] if setting else COMPILERS:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise NotBuiltError(
                f"FUSEDFACE_CC cannot be read as a command ({error}): {command}"
            ) from None
        if words and shutil.which(words[0]):
            return words
    raise NotBuiltError(f"no C compiler ({setting or ', '.join(COMPILERS)}) was found")


def _built(source: Source[Called], compiler: list[str], kept: Path) -> Called:
    try:
        # Only this user may enter it. On NFS a loaded library leaves a file there that cannot be deleted.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            written, compiled, made = (Path(folder) / f"loops.{end}" for end in ("c", "o", "so"))
            written.write_bytes(source.text())
            _run([*compiler, *_options(), "-o", str(compiled), str(written)])
            # Without OpenMP: its threads are those of torch, which is loaded, not a second set.
            _run([*compiler, "-shared", "-o", str(made), str(compiled), "-lm"])
            return _kept_and_loaded(source, made, kept)
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        raise NotBuiltError(f"{compiler[0]} cannot make them: {_first_line(error)}") from None


def _kept_and_loaded(source: Source[Called], made: Path, kept: Path) -> Called:
    try:
        library = source.wrapper(str(made))
    except OSError:  # such as a folder for temporary files from which nothing may be run
        _keep(made, kept)
        if not is_only_ours(kept):
            raise
        return source.wrapper(str(kept))
    _keep(made, kept)
    return library


def _run(command: list[str]) -> None:
    subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS
    )


def _first_line(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error).encode()
    return said.decode(errors="replace").strip().partition("\n")[0][:200]


def _keep(made: Path, kept: Path) -> None:
    """Store the library, so that other processes see a whole file or none; if that fails, store nothing."""
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:  # goes, whatever happens
            whole = Path(folder, kept.name)
            whole.write_bytes(made.read_bytes())
            whole.chmod(
                0o600
            )  # whatever the umask is: a file that a group may write to is not used
            whole.replace(kept)
    except OSError:
        pass


def is_only_ours(path: Path) -> bool:
    """Whether `path` is a file that no other user can have written or put there."""
    try:
        found = [path.lstat(), path.parent.stat()]
    except OSError:
        return False
    if not stat.S_ISREG(found[0].st_mode):
        return False
    return all(item.st_uid == os.geteuid() and not item.st_mode & 0o022 for item in found)
