"""PyTorch -> ncnn: a folder with ``model.ncnn.param`` (the layers) and ``model.ncnn.bin`` (the weights), by pnnx.

The input blob is ``in0``, float CHW of one image, as ``ncnn::Mat::from_pixels(rgb, PIXEL_RGB, w, h)`` makes it:
0..255 for the layout ``uint8-nhwc``, 0..1 for ``float-nchw``. The normalisation is in the graph, so there is no
``substract_mean_normalize`` to call. The output blobs are ``out0``, ``out1`` and so on, in the order of the spec's
outputs: the logits are ``out0``. ncnn has no batches.
"""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact, replacing
from kdcompress.errors import KDCompressError, UsageError, ended
from kdcompress.export.formats import ExportJob, Target, Writer, writers
from kdcompress.export.planar import planar
from kdcompress.export.run_ncnn import BIN, PARAM, PIXELS, blobs
from kdcompress.optional import require, require_installed

FAMILIES = {
    "conv": ("Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise"),
    "gemm": ("InnerProduct", "Gemm", "MatMul"),
}
FP16_TAG = 0x01306B47  # stands before every array of weights that is stored in fp16
PNNX_LIMIT_S = 300  # pnnx takes seconds; it has been seen to hang


def check() -> None:
    for module in ("ncnn", "pnnx"):
        require_installed(module, "ncnn", "An ncnn model")


def write(job: ExportJob, target: Target) -> Artifact:
    spec = job.parent.input
    if spec.layout == "uint8-nhwc" and spec.channels not in PIXELS:
        raise UsageError(
            "ncnn has no images of this many channels.",
            got=spec.channels,
            allowed=", ".join(map(str, PIXELS)),
            hint="set the recipe's export.layout to float-nchw",
        )
    path = job.path(target, ".ncnn")
    with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
        convert(job, Path(folder), half=target.precision == "fp16")
        temporary.mkdir()
        for name in (PARAM, BIN):
            (temporary / name).write_bytes(Path(folder, name).read_bytes())
        found = coverage(temporary)
        if any(count for family in FAMILIES for kind, count in found[family].items() if kind != target.precision):
            raise KDCompressError(f"Not every layer's weights are {target.precision}.", where=path.name, got=found)
    provenance = {
        "coverage": found,
        "versions": {name: version(name) for name in ("pnnx", "ncnn", "torch")},
        "input": f"in0: float [C, H, W], {'0..255' if spec.layout == 'uint8-nhwc' else '0..1'}, one image at a time",
        "outputs": blobs(spec),
    }
    return Artifact.of(path, "ncnn", target.precision, spec, target=target.name, provenance=provenance)


def convert(job: ExportJob, folder: Path, *, half: bool) -> None:
    """pnnx leaves its files in ``folder``. Raises KDCompressError where it fails or takes too long."""
    import torch

    pnnx = require("pnnx", "ncnn", "An ncnn model")
    net, example = planar(job.module, job.parent.input)
    _plain(net.graph)
    _cut_heads(net.graph)
    net.recompile()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, example, check_trace=False).save(str(folder / "model.pt"))
    shape = ",".join(map(str, example.shape))
    command = [pnnx.EXEC_PATH, "model.pt", f"inputshape=[{shape}]f32", f"fp16={int(half)}"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PNNX_LIMIT_S,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        raise KDCompressError(
            "pnnx did not end.", got=f"{error.timeout:.0f} s", hint="run the export again; it does not always hang"
        ) from error
    if done.returncode or not (folder / PARAM).is_file() or not (folder / BIN).is_file():
        said = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        got = f"{ended(done.returncode)}: {' | '.join(said[-3:])[:300]}"
        raise KDCompressError("pnnx cannot convert this model.", where=type(job.module).__name__, got=got)


def _plain(graph: Any) -> None:
    """Without what pnnx passes on as it is, or ncnn computes otherwise. An alias is what it is of; addcmul, slices
    with steps, normalisations of [N, C], whose rows ncnn takes for channels, norms of vectors, which it
    divides by along channels alone, and chunks of unequal sizes are written out."""
    import torch

    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target == aten.alias.default:
            node.replace_all_uses_with(node.args[0])
        elif node.target == aten.addcmul.default:
            first, left, right = node.args
            with graph.inserting_before(node):
                product = graph.call_function(aten.mul.Tensor, (left, right))
                if (value := node.kwargs.get("value", 1)) != 1:
                    product = graph.call_function(aten.mul.Tensor, (product, value))
                total = graph.call_function(aten.add.Tensor, (first, product))
            node.replace_all_uses_with(total)
        elif node.target == aten.slice.Tensor and len(node.args) > 4 and node.args[4] > 1:
            _step(graph, node)
        elif node.target == aten.batch_norm.default and node.args[0].meta["val"].ndim == 2:
            _scale(graph, node)
        elif node.target == aten.linalg_vector_norm.default and list(node.args[1:2]) in ([], [2], [2.0]):
            _root_of_squares(graph, node)
        elif node.target == aten.chunk.default:
            _unequal(graph, node)
    graph.eliminate_dead_code()


def _unequal(graph: Any, node: Any) -> None:
    """Chunks of unequal sizes as slices: pnnx would make all as equal as can be, where PyTorch's last is smaller."""
    import torch

    source, count, axis = (*node.args, 0)[:3]
    size = source.meta["val"].shape[axis]
    if size % count == 0:
        return
    width = -(-size // count)
    for user in list(node.users):
        start = user.args[1] * width
        with graph.inserting_before(user):
            bounds = (source, axis, start, min(start + width, size))
            cut = graph.call_function(torch.ops.aten.slice.Tensor, bounds)
        cut.meta["val"] = user.meta["val"]
        user.replace_all_uses_with(cut)


def _root_of_squares(graph: Any, node: Any) -> None:
    """A norm with a least value becomes the root of the squares and of that value's, which is the same but for norms as
    small as that; ncnn has no such clamp."""
    import torch

    aten = torch.ops.aten
    source, _, axes, keep = (*node.args, *(2, None, False)[len(node.args) - 1 :])[:4]
    if axes is None:
        return
    clamps = [user for user in node.users if user.target == aten.clamp_min.default]
    with graph.inserting_before(node):
        square = graph.call_function(aten.mul.Tensor, (source, source))
        total = graph.call_function(aten.sum.dim_IntList, (square, list(axes), keep))
        for clamp in clamps:
            more = graph.call_function(aten.add.Tensor, (total, clamp.args[1] ** 2))
            root = graph.call_function(aten.sqrt.default, (more,))
            for user in list(clamp.users):
                if user.target == aten.expand_as.default:
                    user.replace_all_uses_with(root)
            clamp.replace_all_uses_with(root)
        root = graph.call_function(aten.sqrt.default, (total,))
    node.replace_all_uses_with(root)


def _scale(graph: Any, node: Any) -> None:
    import torch

    aten = torch.ops.aten
    source, weight, bias, mean, variance, _, _, epsilon, *_ = node.args
    with graph.inserting_before(node):
        scale = graph.call_function(aten.rsqrt.default, (graph.call_function(aten.add.Tensor, (variance, epsilon)),))
        if weight is not None:
            scale = graph.call_function(aten.mul.Tensor, (scale, weight))
        shift = graph.call_function(aten.neg.default, (graph.call_function(aten.mul.Tensor, (mean, scale)),))
        if bias is not None:
            shift = graph.call_function(aten.add.Tensor, (shift, bias))
        scaled = graph.call_function(aten.mul.Tensor, (source, scale))
        total = graph.call_function(aten.add.Tensor, (scaled, shift))
    total.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(total)


def _step(graph: Any, node: Any) -> None:
    """Only where the steps divide what they go through from end to end."""
    import torch

    aten = torch.ops.aten
    source, axis, start, end, step = node.args
    shape = list(source.meta["val"].shape)
    axis, start = axis % len(shape), start or 0
    if shape[axis] % step or not 0 <= start < step or (end is not None and end < shape[axis]):
        return
    apart = [*shape[:axis], shape[axis] // step, step, *shape[axis + 1 :]]
    with graph.inserting_before(node):
        if shape[axis] == step:
            cut = graph.call_function(aten.slice.Tensor, (source, axis, start, start + 1))
        else:
            cut = graph.call_function(aten.reshape.default, (source, apart))
            cut = graph.call_function(aten.slice.Tensor, (cut, axis + 1, start, start + 1))
            cut = graph.call_function(aten.reshape.default, (cut, [*apart[: axis + 1], *apart[axis + 2 :]]))
    cut.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(cut)


def _cut_heads(graph: Any) -> None:
    """Queries, keys and values as slices of their common layer's output, [N, tokens, 3 x channels]: most transformers
    make it [3, N, heads, tokens, channels of a head] and index that, and ncnn has no tensors of so many dimensions."""
    import torch

    aten = torch.ops.aten
    for permute in [node for node in graph.nodes if node.target == aten.permute.default]:
        view, (axis, *order) = permute.args
        if view.target not in (aten.reshape.default, aten.view.default):
            continue
        source, shape = view.args[0], list(view.meta["val"].shape)
        before = list(source.meta["val"].shape)
        last = len(before) - 1
        parts = _parts(permute)
        if axis != last or shape[:last] != before[:-1] or parts is None:
            continue
        width = before[-1] // shape[axis]
        for node, index in parts:
            with graph.inserting_before(node):
                cut = graph.call_function(aten.slice.Tensor, (source, last, index * width, (index + 1) * width))
                cut = graph.call_function(aten.reshape.default, (cut, shape[:axis] + shape[axis + 1 :]))
                cut = graph.call_function(aten.permute.default, (cut, [d - (d > axis) for d in order]))
            node.replace_all_uses_with(cut)
    graph.eliminate_dead_code()


def _parts(node: Any) -> list[tuple[Any, int]] | None:
    """(user, index) where all that is done with a tensor is to take it apart along its first dimension, else None."""
    import torch

    found: list[tuple[Any, int]] = []
    for user in node.users:
        if user.target == torch.ops.aten.select.int and user.args[1] == 0 and user.args[2] >= 0:
            found.append((user, user.args[2]))
        elif user.target == torch.ops.aten.unbind.int and user.args[1:] in ((), (0,)):
            found += [(part, part.args[1]) for part in user.users]
        else:
            return None
    return found


def coverage(folder: Path) -> dict[str, Any]:
    """How many convolutions and matrix products have weights of which type, and the layers by kind::

        {"conv": {"fp16": 9, "fp32": 0}, "gemm": {"fp16": 1, "fp32": 0}, "layers": {"Convolution": 9, ...}}

    What they compute in is the runtime's choice: fp16 on ARM CPUs that have it, fp32 on others.
    Raises KDCompressError that names the layers which ncnn does not have.
    """
    ncnn = require("ncnn", "ncnn", "An ncnn model")
    layers = Counter(
        line.split()[0] for line in (folder / PARAM).read_text(encoding="utf-8").splitlines()[2:] if line.strip()
    )
    unknown = [kind for kind in layers if ncnn.layer_to_index(kind) < 0]
    if unknown:
        raise KDCompressError(
            "ncnn does not have every operator of this model.",
            got=", ".join(unknown),
            hint="change these operators in the model, or leave this target out",
        )
    blob = (folder / BIN).read_bytes()
    tags = int((np.frombuffer(blob, "<u4", len(blob) // 4) == FP16_TAG).sum())
    counts = {family: sum(layers[kind] for kind in kinds) for family, kinds in FAMILIES.items()}
    kind, other = ("fp16", "fp32") if tags >= sum(counts.values()) else ("fp32", "fp16")
    return {**{family: {kind: count, other: 0} for family, count in counts.items()}, "layers": dict(layers)}


for precision in ("fp32", "fp16"):
    writers.register(f"ncnn-{precision}")(Writer(write, check, ("pnnx", "ncnn")))
