"""ONNX files as recognisers: what they are fed, and which are refused; our own are in test_export.py."""

import numpy as np
import onnx
import pytest
from hostile_readers import onnx_network
from onnx import TensorProto, helper
from PIL import Image
from small_models import write_generated

from fusedface.data.gallery import face_files
from fusedface.recipes.evaluation.embedding import BATCH_SIZE
from fusedface.recipes.evaluation.onnx_recogniser import OnnxRecogniser

FLOAT = TensorProto.FLOAT


def face(tmp_path):
    """One image, not symmetric, channels different."""
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:, :16] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    return face_files([tmp_path / "face.png"]), pixels.mean(axis=(0, 1))


def test_what_is_fed_to_a_foreign_file(tmp_path):
    """Its embedding is the mean of each channel: (x - 127.5) / 127.5, R G B, both mirror images summed."""
    images, means = face(tmp_path)
    (tmp_path / "net.onnx").write_bytes(onnx_network())
    (found,) = OnnxRecogniser(tmp_path / "net.onnx").embed(images)
    np.testing.assert_allclose(found, 2 * (means - 127.5) / 127.5, rtol=1e-5)


def with_nodes(*names, batch="batch", size=32):
    """The network of means after nodes x - 0 and x * 1 of these names."""
    zero = helper.make_tensor("zero", FLOAT, [], [0.0])
    one = helper.make_tensor("one", FLOAT, [], [1.0])
    nodes = [
        helper.make_node("Sub", ["data", "zero"], ["a"], name=names[0]),
        helper.make_node("Mul", ["a", "one"], ["b"], name=names[1]),
        helper.make_node("GlobalAveragePool", ["b"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("data", FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("embedding", FLOAT, [batch, 3])],
        [zero, one],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(("names", "grey"), [(("Sub_1", "Mul_1"), True), (("x", "Mul_1"), False)])
def test_a_file_that_normalises_is_fed_grey_levels(tmp_path, names, grey):
    images, means = face(tmp_path)
    onnx.save(with_nodes(*names), tmp_path / "net.onnx")
    (found,) = OnnxRecogniser(tmp_path / "net.onnx").embed(images)
    np.testing.assert_allclose(found, 2 * (means if grey else (means - 127.5) / 127.5), rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 4, BATCH_SIZE])
def test_a_file_of_one_batch_size(tmp_path, batch):
    folder = write_generated(tmp_path / "faces", people=2, images=3)
    images = face_files([folder])
    for size in (batch, "batch"):
        onnx.save(with_nodes("Sub", "Mul", batch=size), tmp_path / f"net-{size}.onnx")
    fixed, free = (
        OnnxRecogniser(tmp_path / f"net-{b}.onnx").embed(images) for b in (batch, "batch")
    )
    np.testing.assert_allclose(fixed, free, rtol=1e-6)
    assert fixed.shape == (6, 3)


def put_elsewhere(tensor):
    tensor.name = tensor.name or "inside"
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def changed(**change):
    model = with_nodes("a", "b")
    given = model.graph.input[0].type.tensor_type
    if "shape" in change:
        for dim, value in zip(given.shape.dim, change["shape"], strict=True):
            dim.dim_value = value
    if "inputs" in change:
        model.graph.input.append(helper.make_tensor_value_info("more", FLOAT, [1]))
    if "external" in change:
        put_elsewhere(model.graph.initializer[0])
    if "sparse" in change:
        put_elsewhere(model.graph.sparse_initializer.add(dims=[1]).values)
    if "function" in change:
        node = model.functions.add(name="f", domain="own", output=["x"]).node.add(
            op_type="Constant"
        )
        put_elsewhere(node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t)
    if "preprocessing" in change:
        helper.set_model_props(model, {"preprocessing": change["preprocessing"]})
    if "scalar" in change:
        nodes, output = model.graph.node, model.graph.output[0]
        nodes.append(helper.make_node("ReduceSum", ["embedding"], ["sum"], keepdims=0))
        output.CopyFrom(helper.make_tensor_value_info("sum", FLOAT, []))
    if "nan" in change:
        model.graph.initializer[1].float_data[0] = float("nan")
    return model.SerializeToString()


REFUSED = {
    "channels last": (changed(shape=(1, 32, 32, 3)), "no face recogniser: it takes"),
    "too large": (changed(shape=(1, 3, 4096, 4096)), "no face recogniser: it takes"),
    "two inputs": (changed(inputs=2), "it has 2 inputs and 1 outputs"),
    "external": (changed(external=True), "keeps tensors in other files .*'zero'"),
    "external, sparse": (changed(sparse=True), "keeps tensors in other files .*'inside'"),
    "external, in a function": (changed(function=True), "keeps tensors in other files .*'inside'"),
    "metadata": (changed(preprocessing="{"), "metadata 'preprocessing' is damaged"),
    "metadata, list": (changed(preprocessing="[1]"), "metadata 'preprocessing' is damaged"),
    "metadata, empty list": (changed(preprocessing="[]"), "metadata 'preprocessing' is damaged"),
    "one number": (
        changed(scalar=True),
        r"no face recogniser: \(1, 3, 32, 32\) gives float32 \(\)",
    ),
    "metadata, bytes": (
        changed(preprocessing="QQQQ").replace(b"QQQQ", b"\xff\xfe\xfd\xfc"),
        r"net\.onnx is damaged: a name or the metadata",
    ),
    "nan": (
        changed(nan=True),
        "embeddings of 1 of 1 images are not finite, first that of .*face.png",
    ),
    "bytes": (b"\xff" * 99, "damaged or no ONNX file"),
    "nothing": (b"", "cannot be run by ONNX Runtime"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path, case):
    images, _ = face(tmp_path)
    data, message = REFUSED[case]
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        OnnxRecogniser(tmp_path / "net.onnx").embed(images)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*net\.onnx"):
        OnnxRecogniser(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").mkdir()
    with pytest.raises(ValueError, match=r"net\.onnx is a folder"):
        OnnxRecogniser(tmp_path / "net.onnx")
