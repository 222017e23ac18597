"""Files of a detection transformer: they find what PyTorch does, whose queries stand in no order."""

import pytest
import torch
from test_two_stage_files import LABELS, SIDE, images
from torch import nn

from kdcompress.artifact import InputSpec
from kdcompress.errors import KDCompressError
from kdcompress.export.formats import ExportJob, availability, build, open_runner, target
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.answers import answer_of, described
from kdcompress.models.build import build as network
from kdcompress.models.deployable import Deployable
from kdcompress.parity import compared
from kdcompress.pipelines.preflight import settle
from kdcompress.runner import infer_all
from kdcompress.tasks import tasks
from kdcompress.tasks.detection import detections

pytest.importorskip("transformers")
BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
WIDTHS = dict.fromkeys(("encoder_hidden_dim", "d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 32)
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
OPTIONS = {"backbone_config": BACKBONE, **WIDTHS, **HEADS, "decoder_layers": 2, "num_queries": 30}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The job, and what PyTorch gives for eight images."""
    torch.manual_seed(0)
    net = network("transformers/rtdetr_v2", len(LABELS), 3, OPTIONS)
    for module in net.modules():
        if isinstance(module, nn.Linear):  # the library's are so small that fp16 cannot tell them from 0
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    x = torch.from_numpy(images(16, 0)).permute(0, 3, 1, 2) / 127.5 - 1
    settle(net, x)
    net.eval()
    model = net.model
    boxes = [head.layers[-1] for head in (model.enc_bbox_head, *model.decoder.bbox_embed)]
    with torch.no_grad():
        for layer in (model.enc_score_head, *model.decoder.class_embed, *boxes):
            seen = []
            nn.init.normal_(layer.weight), nn.init.zeros_(layer.bias)
            hook = layer.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.flatten()))
            net(x)
            hook.remove()
            layer.weight.mul_((0.5 if layer in boxes else 2.0) / torch.cat(seen).std())
        outputs = described(answer_of(net(x)), tasks["detection"], LABELS)
    spec = InputSpec(SIDE, SIDE, 3, (0.5,) * 3, (0.5,) * 3, LABELS, task="detection", outputs=outputs)
    module, folder = Deployable(net, spec).eval(), tmp_path_factory.mktemp("queries")
    job = ExportJob(module, export_onnx(module, spec, folder / "student.onnx"), images(16, 1), folder, "student")
    with TorchRunner(module, spec) as runner:
        return job, infer_all(runner, images(8, 2), spec)


SLOW = [pytest.param("android-xnnpack-fp32", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", ["the parent", "openvino-fp32", "mnn-fp32", *SLOW])
def test_files_find_the_same(exported, name):
    job, expected = exported
    spec, artifact = job.parent.input, job.parent
    assert [(out.name, out.shape, out.chosen) for out in spec.outputs] == [
        ("boxes", (30, 4), True),
        ("scores", (30, len(LABELS)), True),
    ]
    assert sum(map(len, detections(expected, 0.3))) > 100
    if name != "the parent":
        builds, _, why, _ = availability(target(name))
        if not builds:
            pytest.skip(why)
        artifact = build(job, target(name))
    with open_runner(artifact) as runner:  # at two sizes of batches
        found, one = infer_all(runner, images(8, 2), spec), runner.infer(spec.prepare(images(8, 2)[:1]))
    parity = compared(expected, found, "detection", "fp32", spec.chosen)
    assert parity and parity.matched == 1, parity.why
    assert compared(tuple(each[:1] for each in expected), one, "detection", "fp32", spec.chosen)
    moved = compared(expected, (found[0] + 0.1, found[1]), "detection", "fp32", spec.chosen)
    assert not moved and moved.why


def test_in_fp16_numbers_are_near(exported):
    """Of a network that nobody trained, some places score so alike that fp16 chooses others."""
    job, expected = exported
    with open_runner(build(job, target("onnx-fp16"))) as runner:
        parity = compared(expected, infer_all(runner, images(8, 2), job.parent.input), "detection", "fp16", True)
    assert parity.relative < 0.01 and parity.matched > 0.75


def test_ncnn_says_what_it_has_not(exported):
    if not availability(target("ncnn-fp32"))[0]:
        pytest.skip("ncnn is not installed")
    with pytest.raises(KDCompressError, match="topk"):
        build(exported[0], target("ncnn-fp32"))
