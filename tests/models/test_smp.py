"""Segmenters of segmentation-models-pytorch: what they give, their stages, mistakes, and weights of encoders."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from kdcompress.errors import RuntimeMissingError, UsageError
from kdcompress.models.answers import Dense, answer_of, class_logits
from kdcompress.models.build import build, pretrained_facts
from kdcompress.models.checkpoint import load_weights
from kdcompress.models.names import packages
from kdcompress.models.taps import Tapped

smp = pytest.importorskip("segmentation_models_pytorch")
SMALL, VIT = "tu-test_efficientnet", "tu-test_vit"  # timm's, for tests
NARROW = {"unet": {"decoder_channels": [32, 16, 8, 8, 8]}, "dpt": {"decoder_fusion_channels": 32}}
PLACES = {"fpn": 4, "pspnet": 8, "deeplabv3": 8, "deeplabv3plus": 4, "pan": 4, "upernet": 4, "segformer": 4}


@pytest.mark.parametrize("architecture", list(smp.MODEL_ARCHITECTURES_MAPPING))
def test_an_architecture_gives_what_it_does_by_itself_but_for_the_last_enlargement(architecture):
    encoder, options = VIT if architecture == "dpt" else SMALL, NARROW.get(architecture, {})
    if encoder == SMALL and architecture in ("deeplabv3", "deeplabv3plus", "pan", "pspnet"):
        encoder = "resnet18"
    torch.manual_seed(0)
    net = build(f"smp/{architecture}/{encoder}", 5, 3, options).eval()
    x = torch.randn(2, 3, 128, 160)
    with torch.no_grad():
        answer = answer_of(net(x))
    places = PLACES.get(architecture, 1)
    assert isinstance(answer, Dense) and answer.size == (128, 160)
    assert answer.map.shape == (2, 5, 128 // places, 160 // places)
    sizes = {"dynamic_img_size": True} if encoder == VIT else {}
    own = smp.create_model(architecture, encoder, None, 3, 5, **options, **sizes)
    own.load_state_dict(net.state_dict())
    with torch.no_grad():
        enlarged = torch.nn.functional.interpolate(answer.map, (128, 160), mode="bilinear", align_corners=True)
        assert torch.allclose(own.eval()(x), enlarged, atol=1e-4)
    tapped = Tapped(net, x, pooled=False)
    assert tapped.shapes.classes == 5
    assert {4, 8} <= {round(stage.reduction) for stage in tapped.shapes.stages} or encoder == VIT
    taps = tapped(x)
    assert torch.equal(taps.stages[-1], maps_of(net, x)[-1]) and torch.equal(taps.logits, class_logits(net(x)))


def maps_of(net, x):
    maps = net.encoder(x)
    return maps[0] if isinstance(maps, tuple) else maps


@pytest.mark.parametrize("encoder", ["mit_b0", "tu-convnext_atto", "mobilenet_v2", "vgg11"])
def test_the_stages_are_the_encoders_from_a_quarter_on(encoder):
    net, x = build(f"smp/unet/{encoder}", 3, 1, NARROW["unet"]).eval(), torch.randn(2, 1, 64, 96)
    assert answer_of(net(x)).map.shape == (2, 3, 64, 96)
    assert [round(stage.reduction) for stage in Tapped(net, x, pooled=False).shapes.stages] == [4, 8, 16, 32]


def test_options_are_the_librarys():
    net = build(f"smp/unet/{SMALL}", 4, 3, {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}).eval()
    assert [round(s.reduction) for s in Tapped(net, torch.randn(2, 3, 64, 64), pooled=False).shapes.stages] == [4, 8]
    enlarged = build(f"smp/fpn/{SMALL}", 4, 3, {"upsampling": 4, "decoder_merge_policy": "cat"}).eval()
    assert answer_of(enlarged(torch.randn(1, 3, 64, 64))).map.shape == (1, 4, 64, 64)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("smp/unett/resnet18", {}, "deeplabv3, deeplabv3plus, dpt, fpn, linknet, manet, pan, pspnet, segformer, unet,"),
        ("smp/unet", {}, "smp/unet/resnet18"),
        ("smp/unet/resnet81", {}, "did you mean 'resnet18'"),
        ("smp/unet/tu-resnet18d0", {}, "did you mean 'resnet18d'"),
        ("smp/dpt/resnet18", {}, "vision transformer of timm"),
        ("smp/unet/resnet18", {"encoder_dept": 3}, "did you mean 'encoder_depth'"),
        ("smp/unet/resnet18", {"encoder_depth": 9}, "depth"),
        (f"smp/unet/{SMALL}", {"encoder_dept": 3}, "encoder_dept"),
        ("smp/unet/resnet18", {"activation": "sigmoid"}, "'activation' cannot be set"),
        ("smp/unet/resnet18", {"classes": 3}, "'classes' cannot be set"),
        ("smpp/unet/resnet18", {}, "did you mean 'smp'"),
    ],
)
def test_mistakes_are_named(name, options, said):
    with pytest.raises(UsageError) as told:
        build(name, 4, 3, options)
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("name", "side", "allowed"),
    [
        ("fpn/resnet18", 100, "multiples of 32"),
        ("pan/resnet18", 64, "from 128 on"),
        (f"dpt/{VIT}", 100, "multiples of 16"),
    ],
)
def test_images_that_do_not_fit_are_refused(name, side, allowed):
    with pytest.raises(UsageError, match=allowed):
        build(f"smp/{name}", 4, 3).eval()(torch.randn(1, 3, side, side))


def test_without_the_package_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    for made in (lambda: build("smp/unet/resnet18", 4, 3), lambda: pretrained_facts("smp/unet/resnet18")):
        with pytest.raises(RuntimeMissingError) as told:
            made()
        assert "pip install 'kdcompress[smp]'" in str(told.value)
    assert packages("smp/unet/resnet18") == ("segmentation-models-pytorch",) and packages("timm/resnet18") == ()


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The library's cache, with an encoder's files as if they had been downloaded."""
    own = smp.create_model("unet", "resnet18", None)
    known = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    folder = tmp_path / f"models--{known['repo_id'].replace('/', '--')}" / "snapshots" / known["revision"]
    folder.mkdir(parents=True)
    facts = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "input_space": "RGB", "input_range": [0, 1]}
    (folder / "config.json").write_text(json.dumps(facts))
    save_file(own.encoder.state_dict(), folder / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return own.encoder


def test_pretrained_encoders_have_the_librarys_weights_and_normalisation(kept):
    facts = pretrained_facts("smp/fpn/resnet18")
    assert (facts.mean, facts.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    assert facts.origin == "https://huggingface.co/smp-hub/resnet18.imagenet"
    net = build("smp/fpn/resnet18", 7, 3, pretrained=True)
    assert torch.equal(net.encoder.layer4[1].conv2.weight, kept.layer4[1].conv2.weight)
    assert answer_of(net.eval()(torch.randn(1, 3, 64, 64))).map.shape == (1, 7, 16, 16)
    with pytest.raises(UsageError, match="cannot be downloaded") as told:
        build("smp/fpn/resnet34", 7, 3, pretrained=True)
    assert "https://huggingface.co/smp-hub/resnet34.imagenet" in str(told.value)
    with pytest.raises(UsageError, match="no such weights") as told:
        pretrained_facts("smp/fpn/resnet18", {"encoder_weights": "imagenett"})
    assert "imagenet, ssl, swsl" in str(told.value)
    assert pretrained_facts("smp/unet/tu-resnet10t") == pretrained_facts("timm/resnet10t")


def test_a_file_of_the_librarys_weights_is_read(tmp_path):
    torch.manual_seed(0)
    own = smp.create_model("unet", SMALL, None, classes=4, **NARROW["unet"])
    torch.save({"state_dict": own.state_dict()}, tmp_path / "mine.pt")
    net = build(f"smp/unet/{SMALL}", 4, 3, NARROW["unet"])
    load_weights(net, tmp_path / "mine.pt")
    x = torch.randn(1, 3, 64, 64)
    assert torch.allclose(answer_of(net.eval()(x)).map, own.eval()(x), atol=1e-5)
