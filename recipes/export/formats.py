"""The export formats by name, with their writers and readers."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedface.recipes.export import mobile, onnx_float, onnx_int8, torch_files
from fusedface.recipes.export.job import Job
from fusedface.recipes.host.program import install_command

Run = Callable[[np.ndarray], np.ndarray]
"""Maps (B, 3, H, W) float32 from `InputContract.prepare` to embeddings (B, D)."""


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: its name on the command line.
        suffix: suffix of the file.
        packages: modules that its writer and reader import.
        extra: the extra of this package that installs them.
        has_graph: the file holds a graph, which fixes its input; else this package does the preprocessing.
        is_exact: the format is float32, so its embeddings must equal PyTorch's.
        write: writes a file.
        open: reads it with the software that it is for.
        usage: Python code that loads it, for the card.
    """

    name: str
    suffix: str
    packages: tuple[str, ...]
    extra: str
    has_graph: bool
    is_exact: bool
    write: Callable[[Job, Path], None]
    open: Callable[[Path], Run]
    usage: str


ONNX = ("onnx", "onnxruntime", "onnxscript")
FORMATS = {
    kind.name: kind
    for kind in (
        Format(
            "onnx", ".onnx", ONNX, "export", True, True, onnx_float.write, onnx_float.open_run,
            onnx_float.USAGE,
        ),
        Format(
            "onnx-int8", ".int8.onnx", ONNX, "export", True, False, onnx_int8.write, onnx_float.open_run,
            onnx_float.USAGE,
        ),
        Format(
            "safetensors", ".safetensors", ("safetensors",), "export", False, True,
            torch_files.write_safetensors, torch_files.open_safetensors, torch_files.SAFETENSORS_USAGE,
        ),
        Format(
            "pt2", ".pt2", (), "export", True, True, torch_files.write_pt2, torch_files.open_pt2,
            torch_files.PT2_USAGE,
        ),
        Format(
            "executorch", ".pte", ("executorch",), "executorch", True, True,
            mobile.write_executorch, mobile.open_executorch, mobile.EXECUTORCH_USAGE,
        ),
        Format(
            "litert", ".tflite", ("litert_torch", "ai_edge_litert"), "litert", True, True,
            mobile.write_litert, mobile.open_litert, mobile.LITERT_USAGE,
        ),
    )
}  # fmt: skip


def get_format(name: str) -> Format:
    """A format whose packages are installed.

    Raises:
        ValueError: there is no such format, or its packages are not installed.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; it is one of: {', '.join(FORMATS)}")
    chosen = FORMATS[name]
    missing = [p for p in chosen.packages if importlib.util.find_spec(p) is None]
    if missing:
        raise ValueError(
            f"format {name!r} needs {', '.join(missing)}; "
            f"install with: {install_command(chosen.extra)}"
        )
    return chosen
