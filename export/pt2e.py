"""Quantising a captured PyTorch graph (PT2E): int8 weights and activations, written as quantise and dequantise nodes.

The quantiser is XNNPACK's: symmetric weights, a scale for each channel or one, and activations of one range a tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from kdcompress.errors import UsageError
from kdcompress.export.behind import behind_layers
from kdcompress.export.formats import Scheme
from kdcompress.export.quiet import quiet

if TYPE_CHECKING:
    import numpy as np
    from torch.fx import GraphModule, Node

KERNELS = {
    "activation": "int8",
    "weight": "int8",
    "reduce_range": False,
    "quantize_bias": True,
    "outputs": True,
    "calibration": "minmax",
    "bias_correction": False,
}
LAYERS = ("conv1d", "conv2d", "conv_transpose2d", "linear", "matmul")  # before lowering


def quantizer(scheme: Scheme, qat: bool = False) -> Any:
    """The XNNPACKQuantizer of a scheme, for ``prepare_pt2e`` or, with ``qat``, ``prepare_qat_pt2e``. The preprocessing
    stays in float. An entry of the scheme's ``exclude`` is the path of a module or the name of a node; ``op_types``
    are operators: conv2d, linear, add...

    Raises UsageError for what XNNPACK cannot do.
    """
    import torch

    scheme.held_to("XNNPACK cannot quantise like this", **KERNELS)
    with quiet():
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
        from torchao.quantization.pt2e import MinMaxObserver
        from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    config = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=scheme.per_channel, is_qat=qat)
    changes: dict[str, Any] = {}
    if scheme.symmetric:
        changes["qscheme"] = torch.per_tensor_symmetric
    if not qat:
        changes["observer_or_fake_quant_ctr"] = MinMaxObserver.with_args(eps=2**-12)
    activation = dataclasses.replace(config.input_activation, **changes)
    config = dataclasses.replace(config, input_activation=activation, output_activation=activation)

    class Quantizer(xnnpack_quantizer.XNNPACKQuantizer):
        if not qat:  # prepare_pt2e has folded batch norm by then, and looking for it takes seconds
            SUPPORTED_PATTERNS = [
                pattern for pattern in xnnpack_quantizer.XNNPACKQuantizer.SUPPORTED_PATTERNS if not pattern.is_qat
            ]

        def annotate(self, model: GraphModule) -> GraphModule:
            self.set_filter_function(_chosen(model, scheme))
            annotated = super().annotate(model)
            for node in _tail(model):  # XNNPACK's rules for concatenation, and for what moves numbers, ask no filter
                node.meta.pop(Q_ANNOTATION_KEY, None)
            return annotated

    return Quantizer().set_global(config)


def _chosen(graph: GraphModule, scheme: Scheme) -> Callable[[Node], bool]:
    """Whether a node is to be quantised: not the preprocessing, nor what the scheme leaves out, nor, in a graph with
    several outputs, what makes these of the last layers'.

    Raises UsageError for a name in the scheme that is not in the graph.
    """
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    kinds = {_operator(node) for node in nodes}
    places = {name for node in nodes for name in (node.name, *_modules(node))}
    for key, names, known in (("op_types", scheme.op_types, kinds), ("exclude", scheme.exclude, places)):
        unknown = sorted(set(names) - known)
        if unknown:
            where, allowed = f"options.scheme.{key}", ", ".join(sorted(known))
            raise UsageError("The model has no such part.", where=where, got=", ".join(unknown), allowed=allowed)
    stays_float, left_out = _front(nodes) | {node.name for node in _tail(graph)}, set(scheme.exclude)

    def chosen(node: Node) -> bool:
        if node.op != "call_function":  # a layer's weight goes with the layer
            return True
        wanted = not scheme.op_types or _operator(node) in scheme.op_types
        return wanted and node.name not in stays_float and not left_out & {node.name, *_modules(node)}

    return chosen


def own_weights(graph: GraphModule) -> None:
    """Layers that share weights, as those of a detector's head do for all maps, get a copy each. Else folding a batch
    norm behind one of them changes the others, and the quantiser leaves all but the first in float."""
    import torch

    for shared in [node for node in graph.graph.nodes if node.op == "get_attr"]:
        layers = [user for user in shared.users if user.op == "call_function" and _operator(user) in LAYERS]
        for number, layer in enumerate(layers[1:], 2):
            value: Any = graph
            for part in shared.target.split("."):
                value = getattr(value, part)
            name = f"{shared.target.replace('.', '_')}_{number}"
            graph.register_parameter(name, torch.nn.Parameter(value.detach().clone(), value.requires_grad))
            with graph.graph.inserting_before(layer):
                own = graph.graph.get_attr(name)
            own.meta = dict(shared.meta)
            layer.replace_input_with(shared, own)
    graph.recompile()


def quantise(graph: GraphModule, wanted: Any, batches: Iterable[np.ndarray]) -> GraphModule:
    """``graph`` in int8 by a ``quantizer``, calibrated on batches of its input; it is changed in place."""
    import torch

    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        prepared = prepare_pt2e(graph, wanted)
        with torch.no_grad():
            for batch in batches:
                prepared(torch.from_numpy(batch))
        converted: GraphModule = convert_pt2e(prepared)
    return converted


def node_name(node: Node) -> str:
    """ "aten.convolution.default", "quantized_decomposed.quantize_per_tensor.default", "getitem" """
    return str(getattr(node.target, "__name__", node.target))


def _operator(node: Node) -> str:
    """ "conv2d", "linear", "add" """
    return node_name(node).split(".")[0]


def _modules(node: Node) -> list[str]:
    """The paths of the modules that a node of a captured graph is in, outermost first."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]


def _front(nodes: list[Node]) -> set[str]:
    """Names of the operations that the input of the first layer is computed by: the preprocessing."""
    first = next((node for node in nodes if _operator(node) in LAYERS), None)
    before: list[Any] = list(first.args[:1]) if first else []
    found: set[str] = set()
    while before:
        node = before.pop()
        if node.op == "call_function" and node.name not in found:
            found.add(node.name)
            before += node.all_input_nodes
    return found


def _tail(graph: GraphModule) -> list[Node]:
    """The operations behind the last layers, where there are several outputs."""
    outputs = next(node for node in graph.graph.nodes if node.op == "output").all_input_nodes
    if len(outputs) < 2:
        return []
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    return behind_layers(
        nodes, lambda node: _operator(node) in LAYERS, lambda node: node.all_input_nodes, lambda node: [node]
    )
