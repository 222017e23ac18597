"""Small nets exported once a session."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from export_nets import Normalised, SmallPlain, SmallResNet, ThreeHeads, colour_spec, grey_spec, pixels, problem
from torch import nn
from torch.nn import functional as F

from kdcompress.artifact import Artifact, InputSpec, Output
from kdcompress.export.formats import ExportJob
from kdcompress.export.to_onnx import export_onnx

torch.set_num_threads(1)


@dataclass
class Exported:
    module: nn.Module
    spec: InputSpec
    artifact: Artifact


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Exported:
    """A residual net that has learnt the four-quarters problem; uint8 NHWC, dynamic batch."""
    torch.manual_seed(0)
    spec = grey_spec()
    net = Normalised(SmallResNet(1, 4), spec)
    x, y = problem(1024, seed=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in range(60):
        part = slice(step * 64 % 1024, step * 64 % 1024 + 64)
        loss = F.cross_entropy(net(torch.from_numpy(x[part])), torch.from_numpy(y[part]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("trained") / "student.onnx"
    net.eval()
    return Exported(net, spec, export_onnx(net, spec, path, metadata={"recipe": "test"}))


@pytest.fixture(scope="session")
def fixed(tmp_path_factory) -> Exported:
    """A plain net on float NCHW colour images, batch fixed at 2, in training mode."""
    torch.manual_seed(0)
    spec = colour_spec(layout="float-nchw", batch=2)
    net = Normalised(SmallPlain(3, 5), spec).train()
    path = tmp_path_factory.mktemp("fixed") / "plain.onnx"
    return Exported(net, spec, export_onnx(net, spec, path))


@pytest.fixture(scope="session")
def heads(tmp_path_factory) -> ExportJob:
    """An untrained net with three outputs. They are not in the order of their names, and two have one shape: what goes
    by position is found out."""
    torch.manual_seed(0)
    outputs = (
        Output("scores", (3,), "shares, one a label"),
        Output("boxes", (80, 4), "distances, in pixels"),
        Output("areas", (3,), "one a label"),
    )
    net = ThreeHeads(colour_spec())
    spec, folder = colour_spec(labels=("a", "b", "c"), outputs=outputs), tmp_path_factory.mktemp("heads")
    parent = export_onnx(net, spec, folder / "student.onnx")
    return ExportJob(net, parent, pixels(spec, 64), folder, "student")


@pytest.fixture
def job(trained, tmp_path) -> ExportJob:
    return ExportJob(trained.module, trained.artifact, problem(256, seed=2)[0], tmp_path, "student")
