"""The error of each 8-bit layer, and the choice of layers that stay float32.

A layer has the name of its weight in the network, such as `blocks.0.project.conv`; a block, such as
`blocks.0`, is all layers whose names begin with it. The cosine compares the outputs of a layer in both
files for one face, so it includes the errors of earlier layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusedface.recipes.host.terminal import Table

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPERATORS = ("Conv", "Gemm", "MatMul")  # operators in 8 bits
BEFORE, AFTER = "backbone.", ".weight"  # around the layer name in the name of its weight
LAYER_HEADINGS = ("layer", "least", "mean", "bits")
NUM_FACES, BATCH_SIZE = 32, 4  # the outputs of all layers are held: 20 MB per face at 112x112


def layers(model: "ModelProto") -> dict[str, "NodeProto"]:
    """The layers of a float32 file that can be quantised, from the input to the embedding."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        node.input[1].removeprefix(BEFORE).removesuffix(AFTER): node
        for node in model.graph.node
        if node.op_type in OPERATORS and node.input[1] in weights
    }


def nodes_to_keep(model: "ModelProto", keep: Sequence[str]) -> list[str]:
    """The nodes of the layers and blocks that stay float32.

    Raises:
        ValueError: there is no such layer.
    """
    known, chosen = layers(model), set()
    for wanted in keep:
        found = {name for name in known if name == wanted or name.startswith(f"{wanted}.")}
        if not found:
            raise ValueError(
                f"--keep-float: there is no layer {wanted!r}; there are: {', '.join(known)}"
            )
        chosen |= found
    return [node.name for name, node in known.items() if name in chosen]


def layer_cosines(exact: Path, quantised: Path, data: np.ndarray) -> dict[str, tuple[float, float]]:
    """Least and mean cosine between both files' outputs of each layer, over faces.

    Args:
        exact: the float32 file.
        quantised: the 8-bit file made from it.
        data: inputs (N, 3, H, W) float32 of the files; at most 32 are used.
    """
    import onnx

    outputs = {name: node.output[0] for name, node in layers(onnx.load(exact)).items()}
    found: dict[str, list[float]] = {name: [] for name in outputs}
    for ours, theirs in _both(exact, quantised, list(outputs.values()), data[:NUM_FACES]):
        for name, one, other in zip(outputs, ours, theirs, strict=True):
            found[name] += _cosines(one, other)
    return {name: (min(values), float(np.mean(values))) for name, values in found.items()}


def layer_rows(
    cosines: Mapping[str, tuple[float, float]], kept: Sequence[str]
) -> list[tuple[str, ...]]:
    """One row of text per layer, with the columns LAYER_HEADINGS."""
    rows = []
    for name, (least, mean) in cosines.items():
        is_float = any(name == wanted or name.startswith(f"{wanted}.") for wanted in kept)
        rows.append((name, f"{least:.5f}", f"{mean:.5f}", "32" if is_float else "8"))
    return rows


def layer_table(rows: Sequence[Sequence[str]]) -> Table:
    """`layer_rows` for a terminal."""
    name, *numbers = LAYER_HEADINGS
    table = Table("8 bits, layer by layer: cosine with float32", [name], numbers)
    table.add_rows(rows)
    return table


def _both(
    exact: Path, quantised: Path, outputs: list[str], data: np.ndarray
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """The outputs of both files, a few faces at a time."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    sessions = []
    for path in (exact, quantised):
        model = onnx.load(path)
        del model.graph.output[:]
        model.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs
        )
        sessions.append(
            onnxruntime.InferenceSession(
                model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
        )
    for start in range(0, len(data), BATCH_SIZE):
        part = {sessions[0].get_inputs()[0].name: data[start : start + BATCH_SIZE]}
        one, other = (session.run(outputs, part) for session in sessions)
        yield one, other


def _cosines(one: np.ndarray, other: np.ndarray) -> list[float]:
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (one, other))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return ((a * b).sum(axis=1) / np.maximum(lengths, 1e-12)).tolist()
