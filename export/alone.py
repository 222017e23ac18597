"""One layer of an ONNX graph in int8 and all others in float, as an int8 file of the whole graph has that layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kdcompress.export import graph

WEIGHT = 1  # the input of a layer that its weights are, where they are constants


class Alone:
    """``parent``: the graph in float. ``quantised``: its QDQ copy, which has the same names."""

    def __init__(self, parent: Any, quantised: Any):
        self.parent = parent
        self.maker = {output: node for node in quantised.graph.node for output in node.output}
        self.constants = {i.name: i for i in quantised.graph.initializer}
        self.layers = {node.name: node for node in quantised.graph.node if node.op_type in graph.LAYERS}
        self.rounds = {node.input[0]: node for node in quantised.graph.node if node.op_type == "QuantizeLinear"}

    def of(self, names: Iterable[str]) -> Any:
        """A copy of the parent in which the layers of these names, those of one module, are rounded: what they read,
        their weights and what they give. Biases are not."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.parent)
        for name in names:
            self._round(model, name)
        return model

    def _round(self, model: Any, name: str) -> None:
        node, mine = next(each for each in model.graph.node if each.name == name), self.layers[name]
        for place, tensor in enumerate(mine.input[: WEIGHT + 1]):
            back = self.maker.get(tensor)
            if back is None or back.op_type != "DequantizeLinear":
                continue
            there = self.maker.get(back.input[0])
            if there is not None and there.op_type == "QuantizeLinear":
                made = self._pair(model, there, back, node.input[place], f"{name}.{place}")
            elif back.input[0] in self.constants:  # weights, as they are stored
                made = [self._copy(model, back, back.input[0], f"{name}.{place}")]
            else:
                continue  # the pixels themselves
            at = list(model.graph.node).index(node)
            for each in reversed(made):
                model.graph.node.insert(at, each)
            node.input[place] = made[-1].output[0]
        self._round_output(model, node, mine)

    def _round_output(self, model: Any, node: Any, mine: Any) -> None:
        """What quantises what the layer gives may do a ReLU as well: then the ReLU's output is what is rounded."""
        there = self.rounds.get(mine.output[0])
        made_by = next((each for each in model.graph.node if mine.output[0] in each.output), None)
        if there is None or made_by is None:
            return
        back = next((each for each in self.maker.values() if each.input[0] == there.output[0]), None)
        if back is None or mine.output[0] in {output.name for output in model.graph.output}:
            return
        tensor, exact = mine.output[0], f"{mine.output[0]}.exact"
        made_by.output[list(made_by.output).index(tensor)] = exact
        made = self._pair(model, there, back, exact, f"{node.name}.output")
        made[-1].output[0] = tensor
        at = list(model.graph.node).index(made_by) + 1
        for each in reversed(made):
            model.graph.node.insert(at, each)

    def _pair(self, model: Any, there: Any, back: Any, tensor: str, name: str) -> list[Any]:
        first = self._copy(model, there, tensor, f"{name}.there")
        return [first, self._copy(model, back, first.output[0], f"{name}.back")]

    def _copy(self, model: Any, node: Any, tensor: str, name: str) -> Any:
        """Of a node that quantises or restores, which reads ``tensor``, with its constants."""
        import onnx

        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.name, made.input[0], made.output[0] = name, tensor, f"{name}.value"
        present = {i.name for i in model.graph.initializer}
        model.graph.initializer.extend(self.constants[i] for i in {*made.input} & {*self.constants} if i not in present)
        return made
