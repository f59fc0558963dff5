"""Triton's interpreter without what it does again and again. Values are computed as before."""

from triton import language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


def quicken(patch):
    """Replace what is slow, with a MonkeyPatch, where this version of Triton has it.

    Gives what was replaced: (owner, name, original) of each.
    """
    replaced = []
    for owner, name, quick in (
        (interpreter, "_patch_lang", patched_once),
        (interpreter, "_get_np_dtype", numpy_types),
        (TritonSemantic, "binary_op_sanitize_overflow_impl", only_if_told),
    ):
        if hasattr(owner, name) and hasattr(interpreter, "_LangPatchScope"):
            original = getattr(owner, name)
            replaced.append((owner, name, original))
            patch.setattr(owner, name, quick(original))
    return replaced


def patched_once(patch_language):
    """The interpreter patches triton.language at every call of a function."""
    patched, known = [], set()

    def patch(fn):
        if fn not in known:
            known.add(fn)
            modules = [
                m for m in (tl, tl.core) if any(value is m for value in fn.__globals__.values())
            ]
            if modules not in patched:
                patched.append(modules)
                patch_language(fn)
        return interpreter._LangPatchScope()  # in which nothing is to be restored

    return patch


def numpy_types(original):
    """NumPy's type of a type; the original builds a table of all types at each call."""
    known = {}

    def numpy_type(ty):
        name = ty.scalar.name
        if name not in known:
            known[name] = original(ty)
        return known[name]

    return numpy_type


def only_if_told(original):
    """Without `debug`, which the interpreter does not set, nobody is told whether an integer overflows."""

    def check(self, lhs, rhs, binary_op):
        if self.builder.options.debug:
            original(self, lhs, rhs, binary_op)

    return check
