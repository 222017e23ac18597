"""Small rewrites of an ONNX graph that leave its outputs the same."""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.errors import UsageError
from kdcompress.export import external_data
from kdcompress.export.behind import behind_layers

PRODUCTS = ("Gemm", "MatMul")
LAYERS = ("Conv", "ConvTranspose", *PRODUCTS)
REGIONS = "RoiAlign"  # looks at regions, its second input, of a map
NORMALISATION = "normalisation"  # the layer that pixels are normalised by, where there is one


def load(path: Path, *, full_check: bool = False) -> Any:
    """The ModelProto in a file. Raises UsageError where it is no usable ONNX model."""
    import onnx

    hint = "export it again"
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=full_check)
    except FileNotFoundError as error:
        raise UsageError("There is no such ONNX file.", where=path) from error
    except Exception as error:  # protobuf, the checker and the external-data reader share no base class
        told = external_data.problem(path)
        raise told or UsageError(
            "The file is not a valid ONNX model.", where=path, got=_first(error), hint=hint
        ) from error
    if not model.graph.output:
        raise UsageError("The file is not a valid ONNX model.", where=path, got="a graph without outputs", hint=hint)
    return model


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"[:300]


def save(model: Any, path: Path) -> None:
    """Check the model and write it as a single file."""
    import onnx

    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def set_metadata(model: Any, facts: dict[str, str]) -> None:
    """Add to the model's metadata; a key that is there is replaced."""
    merged = {**metadata(model), **facts}
    del model.metadata_props[:]
    for key, value in merged.items():
        model.metadata_props.add(key=key, value=value)


def metadata(model: Any) -> dict[str, str]:
    return {prop.key: prop.value for prop in model.metadata_props}


def strip(model: Any) -> None:
    """Remove what tools note for debugging: stack traces, module paths, inferred shapes. In a small
    model it outweighs the weights."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    for thing in (*graph.node, *graph.input, *graph.output, *graph.initializer, *model.functions):
        thing.doc_string = ""
        del thing.metadata_props[:]


def name_layers(model: Any, modules: Iterable[str]) -> None:
    """Give the convolutions and matrix products of a model as it was traced the paths of their ``modules``, which the
    names of their weights begin with, or what is noted of them ends with; others keep their names. A module that is
    called again and again is the layers ``path``, ``path.2``, ``path.3`` and so on."""
    known, taken = set(modules), Counter[str]()
    for node in model.graph.node:
        if node.op_type not in LAYERS:
            continue
        noted = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        scopes = [scope for scope in ast.literal_eval(noted) if scope in known]
        stored = any(node.input[1] == i.name for i in model.graph.initializer)
        path = node.input[1].removesuffix(".weight")
        if path not in known:
            path = scopes[-1] if stored and scopes else ""
        if path:
            taken[path] += 1
            node.name = path if taken[path] == 1 else f"{path}.{taken[path]}"


def name_nodes(model: Any) -> Any:
    """The model, whose nodes without a name now have that of the tensor they give."""
    taken = {node.name for node in model.graph.node}
    for node in model.graph.node:
        name = next(filter(None, node.output), "")
        if not node.name and name not in taken:
            node.name = name
            taken.add(name)
    return model


def load_named(path: Path) -> Any:
    """``load``, with a name for each node."""
    return name_nodes(load(path))


def named_nodes(model: Any, wanted: Iterable[str]) -> list[str]:
    """The names of the nodes that have these names, or are layers of the modules with these paths.

    Raises UsageError for a name that none has.
    """
    nodes = [node.name for node in model.graph.node]
    found = {name: [node for node in nodes if node == name or node.startswith(f"{name}.")] for name in wanted}
    if unknown := [name for name, named in found.items() if not named]:
        raise UsageError(
            "The model has no node of this name to exclude.",
            where="options.scheme.exclude",
            got=", ".join(unknown),
            allowed="layers: " + ", ".join(node.name for node in model.graph.node if node.op_type in LAYERS),
        )
    return [node for named in found.values() for node in named]


def first_layer(model: Any) -> Any | None:
    """The first convolution or matrix product."""
    return next((node for node in model.graph.node if node.op_type in LAYERS), None)


def ancestors(model: Any, node: Any) -> list[Any]:
    """The nodes that the first input of ``node`` is computed from, in order: for the first layer,
    the preprocessing."""
    maker = {output: n for n in model.graph.node for output in n.output}
    todo, found = [node.input[0]], set()
    while todo:
        made_by = maker.get(todo.pop())
        if made_by is not None and made_by.output[0] not in found:
            found.add(made_by.output[0])
            todo += made_by.input
    return [n for n in model.graph.node if n.output[0] in found]


def tail(model: Any) -> list[Any]:
    """The nodes behind the last layers, in order; also those that make a detector's regions of its first layers."""
    return behind_layers(
        list(model.graph.node),
        lambda node: node.op_type in LAYERS,
        lambda node: node.input[:1] if node.op_type == REGIONS else node.input,
        lambda node: filter(None, node.output),  # one that a node may leave out has no name
    )


def float_type(model: Any, layer: Any) -> str:
    """fp16 or fp32: what the weights of a layer are stored in."""
    import onnx

    halves = {i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT16}
    return "fp16" if halves & set(layer.input) else "fp32"


def stored(model: Any) -> dict[str, int]:
    """How many weights are stored in which precision."""
    import onnx

    kinds = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "INT8": "int8", "UINT8": "int8"}
    found: Counter[str] = Counter()
    for initializer in model.graph.initializer:
        kind = kinds.get(onnx.TensorProto.DataType.Name(initializer.data_type))
        if kind:  # others are shapes, zero points and biases in int32
            found[kind] += math.prod(initializer.dims)
    return dict(found.most_common())


def cast_first(model: Any) -> None:
    """Transpose then Cast of the input becomes Cast then Transpose: TensorRT takes a uint8 tensor
    into a Cast and nothing else."""
    users = _users(model)
    for transpose in list(model.graph.node):
        if transpose.op_type != "Transpose" or transpose.input[0] not in {i.name for i in model.graph.input}:
            continue
        after = users.get(transpose.output[0], [])
        if len(after) == 1 and after[0].op_type == "Cast":
            cast = after[0]
            middle, end = transpose.output[0], cast.output[0]
            cast.input[0], cast.output[0] = transpose.input[0], middle
            transpose.input[0], transpose.output[0] = middle, end
            model.graph.node.remove(cast)
            model.graph.node.insert(list(model.graph.node).index(transpose), cast)


def mean_to_pool(model: Any) -> None:
    """ReduceMean over the two spatial axes becomes GlobalAveragePool, which has an int8 kernel."""
    import onnx

    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in inferred}
    for node in list(model.graph.node):
        if node.op_type != "ReduceMean" or ranks.get(node.input[0]) != 4 or len(node.input) != 2:
            continue
        axes = constants.get(node.input[1])
        if axes is None or sorted(int(a) % 4 for a in axes) != [2, 3]:
            continue
        keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        pooled = node.output[0] if keep else f"{node.output[0]}_pooled"
        new = [onnx.helper.make_node("GlobalAveragePool", node.input[:1], [pooled], name=f"{node.name}_pool")]
        if not keep:
            new.append(onnx.helper.make_node("Flatten", [pooled], [node.output[0]], axis=1, name=node.name))
        at = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        for made in reversed(new):
            model.graph.node.insert(at, made)
    drop_unused(model)


def normalisation_to_conv(model: Any) -> None:
    """The normalisation of pixels, a factor and a summand a channel, becomes a convolution of 1x1, which has an int8
    kernel. As a product and a sum it costs up to half of a small int8 model's time: ONNX Runtime lays the pixels out as
    [N, H, W, C] there, and works in runs of C values."""
    import onnx

    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    maker = {output: node for node in model.graph.node for output in node.output}
    users = Counter(name for node in model.graph.node for name in node.input)
    for add in model.graph.node:
        mul = maker.get(add.input[0]) if add.op_type == "Add" else None
        cast = maker.get(mul.input[0]) if mul is not None and mul.op_type == "Mul" else None
        if mul is None or cast is None or cast.op_type != "Cast" or users[mul.output[0]] > 1:
            continue
        factors, summands = (constants.get(node.input[1]) for node in (mul, add))
        if factors is None or summands is None or factors.shape != summands.shape:
            continue
        if factors.ndim != 4 or factors.size != factors.shape[1]:
            continue
        factors, summands = np.diag(factors.ravel())[:, :, None, None], summands.ravel()
        values = {f"{NORMALISATION}.weight": factors, f"{NORMALISATION}.bias": summands}
        model.graph.initializer.extend(onnx.numpy_helper.from_array(value, key) for key, value in values.items())
        inputs, at = [mul.input[0], *values], list(model.graph.node).index(mul)
        options: dict[str, Any] = {"name": NORMALISATION, "kernel_shape": [1, 1]}
        made = onnx.helper.make_node("Conv", inputs, add.output, **options)
        model.graph.node.remove(add)
        model.graph.node.remove(mul)
        model.graph.node.insert(at, made)
        drop_unused(model)
        return


def drop_unused(model: Any) -> None:
    """Remove initialisers that no node reads."""
    read = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    for initializer in list(model.graph.initializer):
        if initializer.name not in read:
            model.graph.initializer.remove(initializer)


def _users(model: Any) -> dict[str, list[Any]]:
    users: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users
