"""RT-DETRv2 of transformers: what it gives and learns is the library's; its levels teach other detectors."""

import json
import sys

import pytest
import torch
from torch import nn

from kdcompress.errors import RuntimeMissingError, UsageError
from kdcompress.models.answers import Chosen, answer_of, shipped
from kdcompress.models.build import build, pretrained_facts
from kdcompress.models.checkpoint import load_weights, save_weights
from kdcompress.models.names import packages
from kdcompress.models.taps import Tapped
from kdcompress.tasks import tasks
from kdcompress.training.distillation import Distillation, Member

transformers = pytest.importorskip("transformers")
NAME, TASK = "transformers/rtdetr_v2", tasks["detection"]
BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
WIDTHS = dict.fromkeys(("encoder_hidden_dim", "d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 32)
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
SMALL = {"backbone_config": BACKBONE, **WIDTHS, **HEADS, "decoder_layers": 2, "num_queries": 30}


def made(classes=3, **options):
    torch.manual_seed(0)
    return build(NAME, classes, 3, {**SMALL, **options})


def whole(net):
    """The library's own detector with these weights."""
    own = transformers.RTDetrV2ForObjectDetection(net.config)
    own.model.load_state_dict(net.model.state_dict())
    return own


def objects():
    y = torch.zeros(4, 3, 6)
    y[0, 0] = torch.tensor([4.0, 6.0, 40.0, 44.0, 1, 1])
    y[1, 0] = torch.tensor([20.0, 6.0, 60.0, 34.0, 2, 1])
    y[1, 2] = torch.tensor([0.0, 0.0, 30.0, 64.0, 0, 1])
    return y  # and two images with none


def test_detections_are_the_librarys():
    net, x = made().eval(), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        boxes, scores = shipped(answer_of(net(x)))
        own = whole(net).eval()(x)
    processor = transformers.RTDetrImageProcessor()
    for i, found in enumerate(processor.post_process_object_detection(own, 0.0, [(64, 96)] * 2)):
        best = scores[i].flatten().topk(len(found["scores"]))
        assert torch.allclose(best.values, found["scores"], atol=1e-6)
        kept = found["boxes"].clone()
        kept[:, 0::2], kept[:, 1::2] = kept[:, 0::2].clamp(0, 96), kept[:, 1::2].clamp(0, 64)
        ours = boxes[i][best.indices // 3]
        assert (ours - kept).abs().amax(1).sort().values[:-3].max() < 1e-3  # ties at the end of the list
    assert boxes.shape == (2, 30, 4) and scores.shape == (2, 30, 3)
    assert isinstance(answer_of(net(x)), Chosen)
    stages = Tapped(net, x, pooled=False).shapes.stages
    assert [(stage.channels, round(stage.reduction)) for stage in stages] == [(32, 8), (32, 16), (32, 32)]


def test_the_loss_is_the_librarys():
    net, x, y = made(), torch.randn(4, 3, 64, 96), objects()
    centred = [each[each[:, 5] == 1] for each in y]
    scale = torch.tensor([96.0, 64.0, 96.0, 64.0])
    labels = [
        {
            "class_labels": rows[:, 4].long(),
            "boxes": torch.cat([rows[:, :2] + rows[:, 2:4], 2 * (rows[:, 2:4] - rows[:, :2])], 1) / 2 / scale,
        }
        for rows in centred
    ]
    wanted = whole(net).eval()(x, labels=labels).loss
    found = TASK.loss(answer_of(net.eval()(x)), y, 0.0)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4) and found.dtype == torch.float32
    TASK.loss(answer_of(net.train()(x)), y, 0.0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_few_steps_make_it_learn():
    net, y = made(), objects()[:2]
    x = torch.randn(2, 3, 64, 96)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = TASK.loss(answer_of(net.train()(x)), y, 0.0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def distilled(student, method, x):
    pair = (Member(net, (0.5,) * 3, (0.25,) * 3) for net in (student, made().eval()))
    return Distillation(next(pair), list(pair), {method: {}}, x, images=4, task="detection")


@pytest.mark.parametrize("method", ["fitnets", "reviewkd", "cwd", "mgd", "pearson", "fgd", "at"])
def test_its_levels_teach_a_detector_of_one_stage(method):
    student = build("fcos/small-resnet10x1", 3, 3, {"width": 8, "levels": 3, "depth": 1})
    x, y = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8), objects()
    terms = distilled(student, method, x).train()(x, y, 0.5, torch.arange(4))
    assert len(terms) > 1 and all(term.isfinite() for term in terms.values())
    sum(term for name, term in terms.items() if name != "task").backward()
    assert sum(p.grad.abs().sum() for p in student.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("student", ["fcos/small-resnet10x1", NAME])
def test_its_queries_are_not_compared(student):
    options = SMALL if student == NAME else {"width": 8, "levels": 3, "depth": 1}
    x = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8)
    with pytest.raises(UsageError, match="place by place"):
        distilled(build(student, 3, 3, options), "kd", x).train()(x, objects(), 0.5, torch.arange(4))


def test_weights_are_kept_and_those_of_the_library_are_read(tmp_path):
    net, other = made(), build(NAME, 3, 3, SMALL)
    x = torch.randn(1, 3, 64, 64)
    torch.save(whole(net).state_dict(), tmp_path / "theirs.pt")
    save_weights(net, tmp_path / "ours.safetensors", {})
    for file in ("theirs.pt", "ours.safetensors"):
        nn.init.normal_(other.model.enc_score_head.weight)
        load_weights(other, tmp_path / file)
        with torch.no_grad():
            pairs = zip(shipped(answer_of(net.eval()(x))), shipped(answer_of(other.eval()(x))), strict=True)
            assert all(torch.allclose(*pair, atol=1e-5) for pair in pairs)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("transformers/rtdetr", {}, "did you mean 'rtdetr_v2'"),
        ("transformers/a/b/c", {}, "OWNER/NAME"),
        (NAME, {"num_querys": 3}, "did you mean 'num_queries'"),
        (NAME, {"num_labels": 3}, "cannot be set"),
        (NAME, {"backbone_config": {"layer_type": "basik"}}, "layer_type"),
    ],
)
def test_mistakes_are_named(name, options, said):
    with pytest.raises(UsageError) as told:
        build(name, 3, 3, options)
    assert said in str(told.value)
    with pytest.raises(UsageError, match="multiples of 32"):
        made().eval()(torch.randn(1, 3, 64, 100))
    with pytest.raises(UsageError, match="has no weights"):
        build(NAME, 3, 3, SMALL, pretrained=True)


def test_without_the_package_it_is_said_how_to_install_it(monkeypatch):
    assert packages(NAME) == ("transformers",)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RuntimeMissingError) as told:
        build(NAME, 3, 3)
    assert "pip install 'kdcompress[transformers]'" in str(told.value)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The Hub's cache, with a repository's files as if they had been downloaded."""
    net = made(classes=5)
    own = whole(net)
    folder = tmp_path / "models--somebody--detector"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    own.save_pretrained(folder / "snapshots" / ("0" * 40))
    facts = {"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "snapshots" / ("0" * 40) / "preprocessor_config.json").write_text(json.dumps(facts))
    for module in ("huggingface_hub.constants", "transformers.utils.hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    return net


def test_weights_of_the_hub_load_by_name(kept):
    name = "transformers/somebody/detector"
    facts = pretrained_facts(name)
    assert (facts.classes, facts.mean, facts.std) == (5, (0.0,) * 3, (1.0,) * 3)
    assert facts.origin == "https://huggingface.co/somebody/detector"
    x = torch.randn(1, 3, 64, 64)
    same = build(name, 5, 3, pretrained=True).eval()
    with torch.no_grad():
        pairs = zip(shipped(answer_of(kept.eval()(x))), shipped(answer_of(same(x))), strict=True)
        assert all(torch.allclose(*pair, atol=1e-5) for pair in pairs)
    other = build(name, 2, 3, pretrained=True).eval()
    assert shipped(answer_of(other(x)))[1].shape == (1, 30, 2)
    weights = (net.model.encoder_input_proj[0][0].weight for net in (kept, other))
    assert torch.equal(*weights)
    with pytest.raises(UsageError, match="cannot be downloaded"):
        build("transformers/somebody/else", 2, 3, pretrained=True)
