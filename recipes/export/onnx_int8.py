"""ONNX with 8-bit weights and activations: static quantisation by QuantizeLinear, DequantizeLinear pairs.

It quantises convolutions and linear layers. Weights are symmetric, with one scale per channel. Ranges of
activations come from faces, without the outermost 1e-4 of the values; full ranges give embeddings further
from the float32 ones (docs/export.md).
"""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusedface.recipes.export import onnx_float
from fusedface.recipes.export.int8_layers import OPERATORS, layer_cosines, nodes_to_keep
from fusedface.recipes.export.job import Job

if TYPE_CHECKING:
    from onnxruntime.quantization import CalibrationDataReader

BATCH_SIZE = 32
PERCENTILE = 99.99


def _reader(data: np.ndarray) -> "CalibrationDataReader":
    """Gives the quantiser the faces in batches."""
    from onnxruntime.quantization import CalibrationDataReader

    class Faces(CalibrationDataReader):
        batches = iter(np.array_split(data, -(-len(data) // BATCH_SIZE)))

        def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            batch = next(self.batches, None)
            return None if batch is None else {onnx_float.INPUT: batch}

    return Faces()


def write(job: Job, path: Path) -> None:
    """Write the network; a temporary float32 file lies next to `path`."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    exact = path.with_name(path.name + ".float32")
    onnx_float.write(job, exact)
    # The quantiser prints progress, and advises a pre-processing that the exporter already does.
    with onnx_float.quiet(), contextlib.redirect_stdout(io.StringIO()):
        quantize_static(
            str(exact),
            str(path),
            _reader(job.calibration()),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=nodes_to_keep(onnx.load(exact), job.keep_float),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE},
        )
    exact.unlink()
    onnx.save(onnx_float.finish(onnx.load(path), job.network), path)


def cosines(job: Job, path: Path) -> dict[str, tuple[float, float]]:
    """Least and mean cosine with float32 for each layer of a file from `write`."""
    exact = path.with_name(path.name + ".float32")
    onnx_float.write(job, exact)
    found = layer_cosines(exact, path, job.calibration())
    exact.unlink()
    return found
