"""torch's optimisers without the tracer of torch.compile, whose import takes a second."""

import inspect
from typing import Any, TypeVar, cast

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)
LOADING = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def untraced(kind: type[Kind]) -> type[Kind]:
    """A subclass of one of torch's optimisers that computes the same and does not import `torch._dynamo`.

    torch wraps the methods of its optimisers, so that torch.compile leaves them out of its graphs, and each
    wrapper imports the tracer when it is called, also where nothing is compiled. Here the methods are those
    inside the wrappers. So the step must not be called within a compiled function. Copies and pickles work.
    """
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in LOADING}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    methods["__reduce_ex__"] = lambda self, _: (_new, (kind,), self.__getstate__())
    return cast(type[Kind], type(kind.__name__, (kind,), methods))


def _new(kind: type[Kind]) -> Kind:
    """Called by `copy` and `pickle`, which would not find a class that is made here by its name."""
    made = untraced(kind)
    return made.__new__(made)
