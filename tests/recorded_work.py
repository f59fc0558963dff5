"""What a CUDA graph does, on a CPU: the work of a call is recorded, and repeated without the call.

Operators of PyTorch and launches of Triton's kernels are repeated on the tensors of the recording. Numbers
of Python stay as they were, and none of the call's own code runs again. A call that reads a value of a
tensor cannot be recorded.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest
import torch
from own_operators import IMPLEMENTATIONS
from ptx_emulator import driver
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from waiting import reads

from fusedface.kernels import functional
from fusedface.kernels.gpu import launch


@contextmanager
def recorded() -> Iterator[Callable[[], None]]:
    """Records what is computed within it; gives what computes it again."""
    work: list[Callable[[], object]] = []
    started = driver._Launcher.__call__

    def start(launcher, *args):
        started(launcher, *args)
        work.append(lambda: started(launcher, *args))

    @torch.no_grad()
    def repeat():
        for again in work:
            again()

    with pytest.MonkeyPatch.context() as patch, _Operators(work):
        patch.setattr(driver._Launcher, "__call__", start)
        patch.setattr(launch, "is_capturing", lambda device: True)
        patch.setattr(functional, "_is_recorded", lambda tensor: True)
        yield repeat


class _Operators(TorchDispatchMode):
    def __init__(self, work):
        super().__init__()
        self._work = work

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if func.namespace == "fusedface":  # launches and fresh memory
            with self:
                return IMPLEMENTATIONS[name](*args)
        if reads(name, args):
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        made = func(*args, **kwargs)
        new = [returned.alias_info is None for returned in func._schema.returns]
        writes = any(
            info and info.is_write for info in (a.alias_info for a in func._schema.arguments)
        )
        if "empty" not in name and (writes or any(new)):
            self._work.append(lambda: _again(func, args, kwargs, made, new))
        return made


def _again(func, args, kwargs, made, new):
    """An operator once more; what it makes goes where it was."""
    results = func(*args, **kwargs)
    if len(new) < 2:
        made, results = (made,) * len(new), (results,) * len(new)
    for there, result, is_new in zip(made, results, new, strict=True):
        if is_new:
            for one, other in zip(tree_leaves(there), tree_leaves(result), strict=True):
                if isinstance(one, Tensor):
                    one.copy_(other)


class GraphOfWork:
    """A `Recorder` with `recorded`.

    Args:
        state: the tensors that a call changes; a recording leaves them as they were, as on a GPU.
    """

    def __init__(self, state: Callable[[], Iterable[Tensor]]):
        self._state = state

    def warm_up(self, call):
        return call()

    def record(self, call):
        state = [*self._state()]
        kept = [tensor.detach().clone() for tensor in state]
        with recorded() as repeat:
            made = call()
        with torch.no_grad():
            for tensor, value in zip(state, kept, strict=True):
                tensor.copy_(value)
        return repeat, made
