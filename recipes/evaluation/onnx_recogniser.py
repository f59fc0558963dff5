"""An ONNX file as a face recogniser: our files, and files that InsightFace's software accepts.

The input follows the rule of InsightFace's software. It is grey levels if the name of one of the first
eight nodes begins with "Sub" and another with "Mul", else (x - 127.5) / 127.5. The metadata of our files
say how mirror features are joined; for other files they are summed.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedface.data import Images, read_batches
from fusedface.data.sources.reading import readable
from fusedface.models.preprocessing import Preprocessing
from fusedface.recipes.evaluation.embedding import BATCH_SIZE, refuse_non_finite
from fusedface.recipes.evaluation.input_contract import USUAL, InputContract
from fusedface.recipes.evaluation.recogniser import Recogniser
from fusedface.recipes.host.program import install_command

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

MAX_BYTES = 1 << 30
SMALLEST_SIDE, LARGEST_SIDE = 16, 1024  # pixels of an input
SUBTRACTS, MULTIPLIES = ("Sub", "_minus"), ("Mul", "_mul")
NUM_NODES = 8  # number of first nodes whose names decide
EXTERNAL = 1  # TensorProto.DataLocation
WARNING, FATAL = 2, 4  # severities of ONNX Runtime's messages; the first is its default


class OnnxRecogniser(Recogniser):
    """An ONNX file on the CPU.

    Args:
        path: the file.

    Raises:
        ValueError: onnx or onnxruntime is missing; or the file is damaged, holds tensors in other files,
            or does not take aligned faces (B, 3, H, W) float32 and give one embedding of each.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, "ONNX"
        model, self._session = _open(path)
        try:
            self._understand(model)
        except UnicodeDecodeError:
            raise ValueError(
                f"{path} is damaged: a name or the metadata in it is not text"
            ) from None

    def _understand(self, model: "ModelProto") -> None:
        """Read input, output and preprocessing from the file."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(
                f"{self.path} is no face recogniser: it has {len(inputs)} inputs and {len(outputs)} "
                "outputs, one of each is needed"
            )
        (given,), (wanted,) = inputs, outputs
        self._input, self._output, self.size = given.name, wanted.name, _size(given, self.path)
        self._is_fixed = isinstance(given.shape[0], int)
        self._batch = given.shape[0] if self._is_fixed else BATCH_SIZE
        mean, std = _normalisation(model)
        self._contract = InputContract(self.size, mean, std)
        self.flip = _flip(self._session.get_modelmeta().custom_metadata_map, self.path)

    def embed(self, images: Images) -> np.ndarray:
        """See `Recogniser`."""
        parts = [self._joined(batch) for batch in read_batches(images, self.size, BATCH_SIZE)]
        embeddings = np.concatenate(parts)
        refuse_non_finite(embeddings, images)
        return embeddings

    def features(self, images: np.ndarray) -> np.ndarray:
        """See `Recogniser`."""
        return self._run(images).astype(np.float32)

    def _joined(self, images: np.ndarray) -> np.ndarray:
        """Joined features of images (B, H, W, 3) uint8 and their mirror images."""
        features = self._run(images), self._run(images[:, :, ::-1])
        return (
            np.concatenate(features, axis=1) if self.flip == "concat" else features[0] + features[1]
        )

    def _run(self, images: np.ndarray) -> np.ndarray:
        """Features (B, D) float64, in batches of the file's fixed size, if it has one."""
        data, rows = self._contract.prepare(images), []
        for start in range(0, len(data), self._batch):
            part = data[start : start + self._batch]
            missing = self._batch - len(part) if self._is_fixed else 0
            padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            try:
                found = np.asarray(self._session.run([self._output], {self._input: padded})[0])
            except Exception as error:  # of many kinds, all of them the file's
                raise ValueError(f"{self.path} cannot be run: {str(error)[:300]}") from None
            if not _holds_embeddings(found, len(padded)):
                raise ValueError(
                    f"{self.path} is no face recogniser: {padded.shape} gives {found.dtype} {found.shape}"
                )
            rows.append(found[: len(part)].reshape(len(part), -1))
        return np.concatenate(rows).astype(np.float64)


def _holds_embeddings(found: np.ndarray, count: int) -> bool:
    """Whether an output has at least two numbers for each of so many images."""
    has_rows = found.ndim > 1 and len(found) == count
    return has_rows and found.dtype.kind == "f" and found[0].size > 1


def _open(path: Path) -> tuple["ModelProto", Any]:
    """The model description of a file, and an ONNX Runtime session."""
    try:
        import onnx
        import onnxruntime  # noqa: F401  only whether it is there
    except ImportError as error:
        raise ValueError(
            f"{path}: reading ONNX files needs {error.name}; install with: {install_command('export')}"
        ) from None
    data = _bytes(path)
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # protobuf's, of many kinds
        raise ValueError(f"{path} is damaged or no ONNX file") from None
    elsewhere = [tensor.name for tensor in _all_tensors(model) if tensor.data_location == EXTERNAL]
    if elsewhere:
        raise ValueError(
            f"{path} keeps tensors in other files (such as {str(elsewhere[0])[:80]!r}), which are not "
            "read: save it as one file"
        )
    return model, _session(path, data)


def _bytes(path: Path) -> bytes:
    with readable(path):
        size = path.stat().st_size
        if not path.is_file() or size > MAX_BYTES:
            raise ValueError(f"{path} is a folder, or too large for a face recogniser")
        return path.read_bytes()


def _session(path: Path, data: bytes) -> Any:
    """A silent session on the bytes of a file; what ONNX Runtime has to say is in the error."""
    try:
        return cpu_session(data, log_severity=FATAL)
    except Exception as error:  # of many kinds, all of them the file's
        raise ValueError(f"{path} cannot be run by ONNX Runtime: {str(error)[:300]}") from None


def cpu_session(model: bytes | str, log_severity: int = WARNING) -> Any:
    """An ONNX Runtime session on the CPU, with as many threads as torch.

    Args:
        model: the bytes of a file, or its path.
        log_severity: the least severity of its messages on standard error, WARNING or FATAL.
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = log_severity
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _all_tensors(model: "ModelProto") -> "Iterator[TensorProto]":
    """Every tensor of a model: of its graph and of its own functions."""
    yield from _tensors(model.graph)
    for function in model.functions:
        yield from _of_attributes(function.attribute_proto)
        for node in function.node:
            yield from _of_attributes(node.attribute)


def _tensors(graph: "GraphProto") -> "Iterator[TensorProto]":
    """Every tensor of a graph and of the graphs inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_attributes(node.attribute)


def _of_attributes(attributes: "Iterable[AttributeProto]") -> "Iterator[TensorProto]":
    for attribute in attributes:
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _size(given: Any, path: Path) -> tuple[int, int]:
    """(H, W) of an input."""
    shape = given.shape
    sides = shape[2:]
    fits = (
        given.type == "tensor(float)"
        and len(shape) == 4
        and shape[1] == 3
        and all(isinstance(n, int) and SMALLEST_SIDE <= n <= LARGEST_SIDE for n in sides)
        and (not isinstance(shape[0], int) or 1 <= shape[0] <= BATCH_SIZE)
    )
    if not fits:
        raise ValueError(
            f"{path} is no face recogniser: it takes {given.type} {shape}, aligned faces are float32 "
            "(B, 3, H, W) of a size that is said"
        )
    return sides[0], sides[1]


def _normalisation(model: "ModelProto") -> tuple[float, float]:
    """Mean and standard deviation that the caller normalises with."""
    names = [node.name for node in model.graph.node[:NUM_NODES]]
    normalises = all(
        any(name.startswith(beginnings) for name in names) for beginnings in (SUBTRACTS, MULTIPLIES)
    )
    return (0.0, 1.0) if normalises else (USUAL, USUAL)


def _flip(metadata: dict[str, str], path: Path):
    """How mirror features are joined: from the metadata of our files, else "sum"."""
    if "preprocessing" not in metadata:
        return "sum"
    try:
        return Preprocessing.from_dict(json.loads(metadata["preprocessing"])).flip
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata 'preprocessing' is damaged: {error}") from None
