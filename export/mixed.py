"""Some layers of a network in int8 and the others in float: what a target's ``exclude`` says then."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcompress.export import graph
from kdcompress.export.formats import ExportJob, Scheme, Target, writers
from kdcompress.export.node_macs import macs
from kdcompress.export.quantize import as_quantised

# These take the precision of what they read: quantisers put nothing around them alone.
FOLLOWING = ("Cast", "Clip", "Flatten", "Identity", "MaxPool", "Pad", "Relu", "Reshape", "Slice", "Split", "Squeeze",
             "Transpose", "Unsqueeze")  # fmt: skip


@dataclass(frozen=True)
class Layers:
    """The layers of a network that a target's scheme does not leave in float by itself, in their order.

    ``macs``: multiply-accumulates of one image, by layer, those of one module together. ``kinds``: what each is, such
    as a depthwise convolution. ``between``: the nodes that are no layers and can be quantised, by their names, each
    with the layers that it computes from: it is in int8 where all of these are. Empty where the format's writer knows
    no nodes and decides by itself."""

    macs: dict[str, int]
    kinds: dict[str, str]
    between: dict[str, frozenset[str]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.macs)

    def excluded(self, floating: Collection[str]) -> tuple[str, ...]:
        """What is to be excluded for these layers to be in float, in the network's order."""
        names = [name for name in self.macs if name in floating]
        return (*names, *(name for name, sources in self.between.items() if not sources.isdisjoint(names)))

    def share(self, floating: Collection[str]) -> dict[str, float]:
        """The share of layers, and of multiply-accumulates, that are in int8 then, 0..1."""
        kept = [name for name in self.macs if name not in floating]
        whole = sum(self.macs.values())
        of_macs = sum(self.macs[name] for name in kept) / whole if whole else 0.0
        return {"layers": len(kept) / len(self.macs), "macs": of_macs}


def layers_of(job: ExportJob, target: Target) -> Layers:
    """Of the job's network, as the target's format can name them."""
    scheme, writer = target.options.scheme, writers[target.writer]
    assert scheme is not None  # a target with precision int8 has one
    parent = graph.load(job.parent.path)
    names = layer_names(parent, scheme)
    if writer.nodes is None:
        modules = {name for name, _ in job.module.named_modules()}
        names = [name for name in names if name in modules]
    spec, nodes = job.parent.input, {node.name: node for node in parent.graph.node}
    images = np.zeros((spec.batch or 1, spec.height, spec.width, spec.channels), np.uint8)
    counted = macs(parent, spec.name, spec.prepare(images))
    found = {
        name: sum(counted.get(each, 0) for each in graph.named_nodes(parent, [name])) // len(images) for name in names
    }
    between: dict[str, frozenset[str]] = {}
    if writer.nodes is not None:
        known = writer.nodes(job, scheme)
        for name, sources in _between(as_quantised(job, scheme), names, spec.decodes).items():
            before = name.removesuffix("_pool")  # mean_to_pool may have made it
            if own := next((each for each in (name, before) if each in known), None):
                between[own] = sources
    return Layers(found, {name: _kind(parent, nodes[name]) for name in names}, between)


def layer_names(parent: Any, scheme: Scheme) -> list[str]:
    """The convolutions and matrix products of a model that a scheme does not leave in float; of a module that is called
    again and again the first, whose name stands for all."""
    names = [node.name for node in parent.graph.node if node.op_type in graph.LAYERS]
    left_out = graph.named_nodes(parent, scheme.exclude)
    return [name for name in names if name not in left_out and name.rpartition(".")[0] not in names]


def _kind(model: Any, node: Any) -> str:
    if node.op_type in ("Gemm", "MatMul"):
        return "matrix product"
    if node.op_type == "ConvTranspose":
        return "transposed convolution"
    weight = next((tuple(i.dims) for i in model.graph.initializer if i.name == node.input[1]), ())
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if groups > 1:
        return "depthwise convolution" if weight[1:2] == (1,) else "grouped convolution"
    size = "x".join(map(str, weight[2:]))
    return f"{size} convolution" if size else "convolution"


def _between(model: Any, layers: Iterable[str], decodes: bool) -> dict[str, frozenset[str]]:
    """For each node that a quantiser would put quantisation around, the layers that it computes from with no other in
    between; for the normalisation of pixels where it is a convolution, those that read it."""
    wanted, ahead = set(layers), dict[str, frozenset[str]]()
    of_first: set[str] = set()
    behind = {node.output[0] for node in graph.tail(model)} if decodes else set()
    found = {}
    for node in model.graph.node:
        sources = frozenset[str]().union(*(ahead.get(name, frozenset()) for name in node.input))
        name = _layer(node.name, wanted) if node.op_type in graph.LAYERS else None
        if name is not None and graph.NORMALISATION in sources:
            of_first.add(name)
        mine = frozenset({name}) if name else sources
        if node.name == graph.NORMALISATION:
            mine = frozenset({graph.NORMALISATION})
        elif node.op_type not in (*FOLLOWING, *graph.LAYERS) and sources & wanted and node.output[0] not in behind:
            found[node.name] = sources & wanted
        ahead |= dict.fromkeys(node.output, mine)
    return {graph.NORMALISATION: frozenset(of_first), **found} if of_first else found


def _layer(node: str, layers: Collection[str]) -> str | None:
    """The layer that a node is, or belongs to."""
    return node if node in layers else next((name for name in layers if node.startswith(f"{name}.")), None)
