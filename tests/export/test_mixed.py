"""Some layers in int8 and the others in float: what is excluded then, and what of the file is int8."""

import numpy as np
import onnx
import pytest
import torch

from kdcompress.artifact import InputSpec
from kdcompress.export import graph
from kdcompress.export.formats import ExportJob, target
from kdcompress.export.mixed import layers_of
from kdcompress.export.quantize import write_int8
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.build import build
from kdcompress.models.counting import macs
from kdcompress.models.deployable import Deployable

IMAGES = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)
NETWORKS = {"resnet8": 1, "mobilenetv2": 3}  # of three channels, the normalisation becomes a convolution


@pytest.fixture(scope="module", params=NETWORKS)
def job(request, tmp_path_factory):
    channels, folder = NETWORKS[request.param], tmp_path_factory.mktemp("mixed")
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.25, 0.2, 0.3)[:channels]
    spec = InputSpec(16, 16, channels, mean, std, tuple("abcd"))
    torch.manual_seed(0)
    module = Deployable(build(request.param, 4, channels).eval(), spec).eval()
    parent = export_onnx(module, spec, folder / "student.onnx")
    return ExportJob(module, parent, IMAGES[..., :channels], folder, "student", folder / "ranges.json")


def quantised(job, floating):
    """Of a file with these layers in float: the layers that are in int8, and the nodes whose outputs are quantised."""
    found = target("x86-vnni")
    scheme = found.options.scheme.model_copy(update={"exclude": layers_of(job, found).excluded(floating)})
    path = job.folder / "mixed.onnx"
    write_int8(job, scheme, path, job.ranges)
    model = onnx.load(path)
    maker = {output: node for node in model.graph.node for output in node.output}
    back = {output for output, node in maker.items() if node.op_type == "DequantizeLinear"}
    int8 = {node.name for node in model.graph.node if node.op_type in graph.LAYERS and back.issuperset(node.input[:2])}
    read = [maker.get(node.input[0]) for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return int8, {node.name for node in read if node is not None}


def test_macs_are_those_of_the_network(job):
    layers, spec = layers_of(job, target("x86-vnni")), job.parent.input
    counted = macs(job.module.net, torch.zeros(1, spec.channels, 16, 16))
    assert sum(layers.macs.values()) == counted and min(layers.macs.values()) > 0
    assert layers.share(layers.names) == {"layers": 0, "macs": 0} and layers.share(()) == {"layers": 1, "macs": 1}


def test_nothing_is_int8_where_all_layers_are_in_float(job):
    assert quantised(job, layers_of(job, target("x86-vnni")).names) == (set(), set())


def test_one_layer_alone_is_int8_with_what_computes_from_it_alone(job):
    layers = layers_of(job, target("x86-vnni"))
    last = layers.names[-2]  # before the classifier: what it feeds may be pooled
    int8, nodes = quantised(job, set(layers.names) - {last})
    assert int8 == {last}
    both = {name for name, sources in layers.between.items() if len(sources) > 1}
    assert both and not nodes & both  # an addition of it and of another layer


def test_what_is_between_is_excluded_with_any_of_its_sources(job):
    layers = layers_of(job, target("x86-vnni"))
    name, sources = next((name, sources) for name, sources in layers.between.items() if len(sources) > 1)
    assert all(name in layers.excluded({source}) for source in sources) and layers.excluded(()) == ()
    assert name not in layers.excluded(set(layers.names) - sources)


def test_formats_that_know_no_nodes_are_given_modules_alone(job):
    layers = layers_of(job, target("android-xnnpack"))
    modules = {name for name, _ in job.module.named_modules()}
    assert layers.names and set(layers.names) <= modules and not layers.between


def test_openvino_keeps_the_names_of_what_is_between(job):
    pytest.importorskip("nncf")
    layers = layers_of(job, target("x86-openvino"))
    assert {name for name, sources in layers.between.items() if len(sources) > 1}
    assert "normalisation" not in layers.between
