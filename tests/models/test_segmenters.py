"""Segmenters on any backbone and torchvision's: shapes, stages, options, weights, and what they ship."""

import numpy as np
import pytest
import torch
import torchvision

from kdcompress.artifact import InputSpec
from kdcompress.errors import UsageError
from kdcompress.export.formats import open_runner
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.answers import Dense, answer_of, class_logits, shipped
from kdcompress.models.build import build, pretrained_facts
from kdcompress.models.counting import count_parameters
from kdcompress.models.deployable import Deployable
from kdcompress.models.names import names
from kdcompress.models.segmenters import heads
from kdcompress.models.taps import Tapped
from kdcompress.parity import parity
from kdcompress.tasks import tasks

TASK = tasks["semantic-segmentation"]
TORCHVISIONS = "torchvision/lraspp_mobilenet_v3_large"


@pytest.mark.parametrize("head", list(heads))
@pytest.mark.parametrize("backbone", ["small-resnet10x1", "timm/resnet10t"])
def test_a_head_on_a_backbone_gives_logits_at_an_eighth_and_the_backbones_maps(head, backbone):
    net = build(f"{head}/{backbone}", 5, 3, {"width": 16}).eval()
    x = torch.randn(2, 3, 64, 96)
    answer = answer_of(net(x))
    assert isinstance(answer, Dense) and answer.map.shape == (2, 5, 8, 12) and answer.size == (64, 96)
    assert class_logits(answer).shape == (2, 8, 12, 5)
    assert torch.equal(class_logits(answer)[1, 3, 4], answer.map[1, :, 3, 4])
    tapped = Tapped(net, x, pooled=False)
    assert [round(stage.reduction) for stage in tapped.shapes.stages] == [8, 16, 32]
    assert tapped.shapes.classes == 5 and tapped.shapes.places == 96
    finer = answer_of(build(f"{head}/{backbone}", 5, 3, {"finest": 4}).eval()(x))
    assert finer.map.shape == (2, 5, 16, 24)


def test_channels_options_and_mistakes():
    assert answer_of(build("fcn/small-resnet10x1", 4, 1).eval()(torch.randn(1, 1, 64, 64))).map.shape == (1, 4, 8, 8)
    dilated = build("deeplabv3/timm/resnet10t", 4, 3, {"backbone": {"output_stride": 8}, "rates": [2, 4]}).eval()
    assert [each[0].dilation for each in dilated.head.branches] == [(1, 1), (2, 2), (4, 4)]
    assert answer_of(dilated(torch.randn(1, 3, 64, 64))).map.shape == (1, 4, 8, 8)
    small = count_parameters(build("lraspp/small-resnet10x2", 11, 3))
    assert small < 300_000 < count_parameters(build("fcn/timm/resnet10t", 11, 3)) / 8
    for name, options, said in (
        ("lraspp/small-resnet10x1", {"width": 2}, "options.width"),
        ("deeplabv3/small-resnet10x1", {"rates": [0]}, "options.rates"),
        ("fcn/small-resnet10x1", {"wide": 2}, "wide"),
        ("lraspp/no-such-network", {}, "no-such-network"),
        ("fcn/small-resnet10x1", {"finest": 64}, "coarse enough"),
        ("fcn/small-resnet10x1", {"finest": "8"}, "options.finest"),
        ("fcn/small-resnet10x1", {"backbone": 3}, "options.backbone"),
    ):
        with pytest.raises(UsageError) as told:
            build(name, 4, 3, options)
        assert said in str(told.value)


def test_torchvisions_segmenters_give_what_torchvision_does():
    assert TORCHVISIONS in names()["torchvision"]
    torch.manual_seed(0)
    net = build(TORCHVISIONS, 7, 3).eval()
    assert not list(net.segmenter.children())[2:]  # no auxiliary classifier
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        large = torch.nn.functional.interpolate(answer_of(net(x)).map, (64, 64), mode="bilinear")
        assert torch.allclose(large, net.segmenter(x)["out"], atol=1e-5)
    stages = Tapped(net, x, pooled=False).shapes.stages
    assert [round(stage.reduction) for stage in stages] == [8, 16]
    facts = pretrained_facts(TORCHVISIONS)
    assert facts.classes == 21 and facts.origin.startswith("https://")
    assert pretrained_facts("lraspp/torchvision/resnet18").classes == 1000


@pytest.mark.parametrize("classes", [21, 5])
def test_torchvisions_weights_are_kept_but_for_layers_of_other_labels(classes, monkeypatch):
    """Weights are made here, in place of a download."""
    torch.manual_seed(0)
    whole = torchvision.models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *given, **more: whole.state_dict())
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *given, **more: whole.state_dict())
    net = build(TORCHVISIONS, classes, 3, pretrained=True).segmenter
    assert torch.equal(net.backbone["0"][0].weight, whole.backbone["0"][0].weight)
    same = torch.equal(net.classifier.low_classifier.weight[:5], whole.classifier.low_classifier.weight[:5])
    assert same == (classes == 21) and net.classifier.high_classifier.out_channels == classes


@pytest.mark.parametrize("form", ["logits", "classes"])
def test_a_file_gives_what_the_network_does(form, tmp_path):
    torch.manual_seed(0)
    net = build("lraspp/small-resnet10x1", 4, 3, {"width": 8}).train()
    for layer in (net.head.low, net.head.high):
        torch.nn.init.normal_(layer.weight, std=1.0)
    for norm in (each for each in net.modules() if isinstance(each, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    net(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    labels = ("a", "b", "c", "d")
    with torch.no_grad():
        shapes = [tuple(each.shape[1:]) for each in shipped(answer_of(net.eval()(torch.zeros(1, 3, 64, 64))), form)]
    spec = InputSpec(64, 64, 3, (0.0,) * 3, (1.0,) * 3, labels, outputs=TASK.outputs(labels, shapes), task=TASK.name)
    assert spec.outputs[0].name == form and spec.decodes == (form == "classes")
    module = Deployable(net, spec, form=form).eval()
    artifact = export_onnx(module, spec, tmp_path / "net.onnx")
    with TorchRunner(module, spec) as reference, open_runner(artifact) as runner:
        found = parity(reference, runner, images, spec)
        (output,) = runner.infer(images)
    assert found, found.why
    assert output.dtype == np.float32 and output.shape == (6, *shapes[0])
    if form == "classes":
        assert set(np.unique(output)) <= set(range(4)) and len(np.unique(output)) > 1


def test_a_classifier_has_no_classes_of_pixels():
    with pytest.raises(UsageError, match="cannot give classes"):
        shipped(torch.zeros(1, 4), "classes")
