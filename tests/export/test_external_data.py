"""ONNX files whose weights are in another file: what is wrong with that one is said by every reader."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdcompress.errors import UsageError
from kdcompress.export import external_data, graph
from kdcompress.export.run_onnxruntime import open_session

OUTSIDE, MISSING, CUT = "from outside its folder", "weights is missing", "weights is cut off"


@pytest.fixture
def path(tmp_path):
    """A model in a folder of its own, its weights beside it."""
    weights = [numpy_helper.from_array(np.ones((192, 4), np.float32), name) for name in ("v", "w")]
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    value = helper.make_tensor_value_info
    inputs, outputs = [value("x", TensorProto.FLOAT, ["n", 3, 8, 8])], [value("y", TensorProto.FLOAT, ["n", 4])]
    made = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (tmp_path / "model").mkdir()
    whole = tmp_path / "model/m.onnx"
    onnx.save(model, whole, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "outside.data").write_bytes((tmp_path / "model/m.data").read_bytes())
    return whole


def changed(path, key, text):
    model = onnx.load(path, load_external_data=False)
    entry = next(entry for entry in model.graph.initializer[1].external_data if entry.key == key)
    entry.value = text
    path.write_bytes(model.SerializeToString())


def test_whole_files_and_others_have_no_such_problem(path, tmp_path):
    assert external_data.problem(path) is None and graph.load(path) and open_session(path)
    (tmp_path / "text.onnx").write_text("no model")
    assert external_data.problem(tmp_path / "text.onnx") is None
    with pytest.raises(UsageError, match="not a valid ONNX model"):
        graph.load(tmp_path / "text.onnx")


@pytest.mark.parametrize("read", [graph.load, open_session])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.with_name("m.data").unlink(), MISSING),
        (lambda path: path.with_name("m.data").write_bytes(bytes(4000)), CUT),
        (lambda path: path.with_name("m.data").write_bytes(b""), CUT),
        (lambda path: changed(path, "length", "9" * 15), CUT),
        (lambda path: changed(path, "location", "../outside.data"), OUTSIDE),
        (lambda path: changed(path, "location", str(path.parent.parent / "outside.data")), OUTSIDE),
        (lambda path: changed(path, "location", ""), OUTSIDE),
        (lambda path: (changed(path, "location", "l"), path.with_name("l").symlink_to("../outside.data")), OUTSIDE),
    ],
)
def test_what_is_wrong_is_said(path, damage, expected, read):
    damage(path)
    with pytest.raises(UsageError, match=expected) as caught:
        read(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600


def test_tensors_inside_nodes_count_too(path):
    model = onnx.load(path, load_external_data=False)
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=TensorProto())], "inner", [], [])
    tensor = inner.node[0].attribute[0].t
    tensor.CopyFrom(model.graph.initializer[0])
    tensor.external_data[0].value = "gone.data"
    model.graph.node.append(helper.make_node("If", ["b"], ["o"], then_branch=inner, else_branch=inner))
    path.write_bytes(model.SerializeToString())
    assert "'gone.data'" in str(external_data.problem(path))
