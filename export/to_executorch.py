"""PyTorch -> ExecuTorch (.pte), fp32 or int8, with the XNNPACK delegate: phones, tablets and small ARM boards.

The program takes ``spec.batch`` images, and one where the batch is dynamic: on a ResNet-8 more of them in a call took
as long an image or longer, and a program with a dynamic batch reserves the memory of its largest.
"""

from __future__ import annotations

import math
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcompress.artifact import Artifact, InputSpec, replacing
from kdcompress.errors import KDCompressError
from kdcompress.export.formats import ExportJob, Target, Writer, writers
from kdcompress.export.pt2e import node_name, own_weights, quantise, quantizer
from kdcompress.export.quiet import quiet
from kdcompress.optional import require_installed

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

DELEGATED = 0.9  # the least share of multiply-accumulates in XNNPACK; the portable kernels are far slower
FAMILIES = {
    "conv": ("aten.convolution.default",),
    "gemm": ("aten.linear.default", "aten.addmm.default", "aten.mm.default", "aten.bmm.default"),
}
ACTIVATIONS = ("aten.relu.default", "aten.hardtanh.default", "aten.clamp.default")  # part of the layer before them


def check() -> None:
    require_installed("executorch", "executorch", "A .pte file")


def write(job: ExportJob, target: Target) -> Artifact:
    spec, scheme = job.parent.input, target.options.scheme
    path = job.path(target, ".pte")
    versions = {name: version(name) for name in ("executorch", "torch", "torchao")}
    facts: dict[str, Any] = {"versions": versions, "images_a_call": spec.batch or 1}
    wanted = quantizer(scheme) if scheme is not None else None  # it refuses before the long part
    graph = capture(job.module, spec)
    if scheme is not None:
        graph = quantise(graph, wanted, job.batches(scheme))
        images = min(len(job.calibration), scheme.images)
        facts |= {"scheme": scheme.model_dump(mode="json"), "calibration_images": images}
    facts["coverage"] = lower(program(graph, spec), path, int8=scheme is not None)
    return Artifact.of(path, "executorch", target.precision, spec, target=target.name, provenance=facts)


def capture(module: nn.Module, spec: InputSpec, training: bool = False) -> GraphModule:
    """A copy of ``module`` as a graph that takes any batch ``spec`` allows, in the form XNNPACK delegates best; what
    quantisers work on. ``training``: with batch norm in training mode, for quantisation-aware training.

    Raises KDCompressError where PyTorch cannot export the module.
    """
    import torch

    from kdcompress.models.copying import copied
    from kdcompress.models.deployable import example

    net = copied(module).cpu().train(training)
    shapes = None if spec.batch else ({0: torch.export.Dim("batch")},)
    with quiet():
        try:
            found = torch.export.export(net, (example(spec),), dynamic_shapes=shapes)
        except Exception as error:  # a user's model can fail in any way
            raise KDCompressError(
                "PyTorch cannot export this model.",
                where=type(module).__name__,
                got=f"{type(error).__name__}: " + " | ".join(str(error).split("\n")[:3])[:400],
                hint="the model's forward must be free of branches on tensor values",
            ) from error
        graph = found.module(check_guards=False)
        _cast_pixels_first(graph)
        _fold_constants(graph)
        _pool_for_mean(graph)
        _float_numbers(graph)
        if not training:
            own_weights(graph)
        graph.graph.eliminate_dead_code()
        graph.recompile()
    return graph


def program(graph: GraphModule, spec: InputSpec) -> ExportedProgram:
    """``graph``, quantised or not, for the batch of a .pte file: the spec's, or 1 where that is dynamic."""
    import torch

    from kdcompress.models.deployable import example

    _write_out_hardsigmoid(graph)
    with quiet():
        return torch.export.export(graph, (example(spec, 1),))


def lower(exported: ExportedProgram, path: Path, int8: bool = False) -> dict[str, Any]:
    """Write an exported program, quantised or not, as a .pte file with the XNNPACK delegate; returns its coverage.

    Raises KDCompressError where XNNPACK takes too little of it, and where ``int8`` is wanted and nothing is.
    """
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        found = coverage(edge.exported_program())
        _judge(found, path, int8)
        built = edge.to_executorch()
    with replacing(path) as temporary, temporary.open("wb") as file:
        built.write_to_file(file)
    return found


def _judge(found: dict[str, Any], path: Path, int8: bool) -> None:
    outside = ", ".join(f"{count} {name}" for name, count in found["outside"].items())
    if found["delegated"]["macs"] < DELEGATED:
        raise KDCompressError(
            "XNNPACK takes too little of this model; the rest would run in slow portable kernels.",
            where=path.name,
            got=f"{found['delegated']['macs']:.1%} of the multiply-accumulates; outside: {outside}",
            allowed=f"{DELEGATED:.0%} or more",
            hint="replace these operators in the network, or export it to ONNX",
        )
    if int8 and not any(found[family]["int8"] for family in FAMILIES):
        raise KDCompressError(
            "No convolution or matrix product of this model runs in int8.",
            where=path.name,
            hint="look at options.scheme of the target: op_types and exclude; an fp32 target does not need one",
        )


def coverage(lowered: ExportedProgram) -> dict[str, Any]:
    """What of a lowered program XNNPACK runs, and in which precision::

        {"conv": {"int8": 9, "fp32": 0}, "gemm": {"int8": 1, "fp32": 0},
         "delegated": {"parts": 1, "nodes": 0.98, "macs": 1.0},   # the last two are shares
         "outside": {"dim_order_ops._to_dim_order_copy.default": 1}}

    A layer is int8 where its input and weight are dequantised and its output is quantised, in the delegate.
    """
    parts = [part.original_module.graph_module for part in _delegates(lowered)]
    inside = [node for part in parts for node in _operations(part)]
    outside = _operations(lowered.graph_module)
    layers = {family: {"int8": 0, "fp32": 0} for family in FAMILIES}
    for family, kinds in FAMILIES.items():
        for node in (*inside, *outside):
            if node_name(node) in kinds:
                layers[family]["int8" if node in inside and _is_int8(node) else "fp32"] += 1
    macs, delegated = sum(map(_macs, (*inside, *outside))), sum(map(_macs, inside))
    shares = {
        "parts": len(parts),
        "nodes": round(len(inside) / max(1, len(inside) + len(outside)), 4),
        "macs": round(delegated / macs, 4) if macs else 0.0,
    }
    return {**layers, "delegated": shares, "outside": dict(Counter(map(node_name, outside)).most_common())}


def _delegates(lowered: ExportedProgram) -> list[Any]:
    graph = lowered.graph_module
    calls = [node for node in graph.graph.nodes if node_name(node) == "executorch_call_delegate"]
    return [getattr(graph, node.args[0].target) for node in calls]


def _operations(graph: GraphModule) -> list[Node]:
    skipped = ("getitem", "executorch_call_delegate")
    return [node for node in graph.graph.nodes if node.op == "call_function" and node_name(node) not in skipped]


def _is_int8(node: Node) -> bool:
    def kind(value: Any, prefix: str) -> bool:
        return hasattr(value, "target") and node_name(value).startswith(f"quantized_decomposed.{prefix}")

    inputs = node.args[1:3] if node_name(node) == "aten.addmm.default" else node.args[:2]
    users = list(node.users)
    while len(users) == 1 and node_name(users[0]) in ACTIVATIONS:
        users = list(users[0].users)
    return all(kind(value, "dequantize") for value in inputs) and all(kind(user, "quantize") for user in users)


def _macs(node: Node) -> int:
    """Multiply-accumulates of a layer; 0 of other nodes."""
    name = node_name(node)
    if not any(name in kinds for kinds in FAMILIES.values()):
        return 0
    shapes = [value.meta["val"].shape for value in node.all_input_nodes]
    if name == "aten.convolution.default":
        transposed = node.args[6]
        sums, each = (shapes[0] if transposed else node.meta["val"].shape), math.prod(shapes[1][1:])
    else:
        sums, each = node.meta["val"].shape, shapes[1 if name == "aten.addmm.default" else 0][-1]
    return int(math.prod(sums) * each)


def _cast_pixels_first(graph: GraphModule) -> None:
    """uint8 -> permute -> float becomes uint8 -> float -> permute: XNNPACK permutes floats, and only those."""
    import torch

    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target != aten.permute.default or node.args[1] != [0, 3, 1, 2]:
            continue
        source = node.args[0]
        casts = [user for user in node.users if user.target == aten.to.dtype and user.args[1] == torch.float32]
        if source.op != "placeholder" or source.meta["val"].dtype != torch.uint8 or not casts:
            continue
        with graph.graph.inserting_before(casts[0]):
            pixels = graph.graph.call_function(aten.to.dtype, (source, torch.float32))
            turned = graph.graph.call_function(aten.permute.default, (pixels, [0, 3, 1, 2]))
            # written out in this order, or every later operator is traced as channels last, which XNNPACK refuses
            contiguous: dict[str, Any] = {"memory_format": torch.contiguous_format}
            planes = graph.graph.call_function(aten.clone.default, (turned,), contiguous)
        for new in (pixels, turned, planes):
            new.meta = dict(casts[0].meta)
        for cast in casts:
            cast.replace_all_uses_with(planes)
            graph.graph.erase_node(cast)
        for user in list(node.users):
            if user.target == aten._assert_tensor_metadata.default:
                graph.graph.erase_node(user)


def _fold_constants(graph: GraphModule) -> None:
    """What depends on buffers and numbers alone is computed now; parameters may still be trained."""
    import torch

    aten = torch.ops.aten
    made = (aten.arange.default, aten.arange.start, aten.arange.start_step, aten.full.default, aten.ones.default,
            aten.zeros.default)  # fmt: skip
    folded: dict[Node, torch.Tensor] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            value = graph
            for part in node.target.split("."):
                value = getattr(value, part)
            if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
                folded[node] = value
        elif node.op == "call_function" and all(n in folded for n in node.all_input_nodes):
            if not node.all_input_nodes and node.target not in made:
                continue
            schema = getattr(node.target, "_schema", None)
            if schema is None or (schema.is_mutable and node.target != aten.detach_.default):
                continue
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), folded.__getitem__)
            value = node.target(*args, **kwargs)
            if not isinstance(value, torch.Tensor):
                continue
            name = f"folded_{node.name}"
            graph.register_buffer(name, value.detach().clone())
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(name)
            constant.meta = dict(node.meta)
            node.replace_all_uses_with(constant)
            folded[constant] = value


def _float_numbers(graph: GraphModule) -> None:
    """x + 3 as x + 3.0: an integer becomes a tensor that is cast at every run, outside the delegate."""
    import torch

    aten = torch.ops.aten
    for node in graph.graph.nodes:
        binary = node.target in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
        if binary and node.meta["val"].is_floating_point():
            node.args = tuple(float(arg) if type(arg) is int else arg for arg in node.args)


def _write_out_hardsigmoid(graph: GraphModule) -> None:
    """PyTorch's own decomposition has integers in it, with the same effect. Not before quantising: the
    quantiser would take the sum for one to quantise."""
    import torch

    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        alone = node.target == aten.hardsigmoid_.default and len(node.args[0].users) == 1
        if node.target == aten.hardsigmoid.default or alone:
            with graph.graph.inserting_before(node):
                raised = graph.graph.call_function(aten.add.Tensor, (node.args[0], 3.0))
                clamped = graph.graph.call_function(aten.clamp.default, (raised, 0.0, 6.0))
                node.replace_all_uses_with(graph.graph.call_function(aten.div.Tensor, (clamped, 6.0)))
            graph.graph.erase_node(node)
    graph.recompile()


def _pool_for_mean(graph: GraphModule) -> None:
    """The mean over space as pooling, which XNNPACK has in int8 too; it takes no mean that drops the dimensions."""
    import torch

    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target != aten.mean.dim or node.kwargs:
            continue
        source, dims, *keep = node.args
        if source.meta["val"].ndim != 4 or sorted(dim % 4 for dim in dims) != [2, 3]:
            continue
        with graph.graph.inserting_before(node):
            mean = pooled = graph.graph.call_function(aten.adaptive_avg_pool2d.default, (source, [1, 1]))
            if not (keep and keep[0]):
                mean = graph.graph.call_function(aten.flatten.using_ints, (pooled, 1))
        for new in (pooled, mean):
            new.meta = dict(node.meta)
        node.replace_all_uses_with(mean)
        graph.graph.erase_node(node)


for precision in ("fp32", "int8"):
    writers.register(f"executorch-{precision}")(Writer(write, check, ("executorch", "torchao")))
