"""What the formulas do not show of the methods that need no second network, make their data or change the student."""

import copy

import pytest
import torch
from torch import nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods.born_again import permuted
from kdcompress.methods.connect import reversed_gradient
from kdcompress.methods.n2n import n2n_losses
from kdcompress.methods.quantized import InputQuantizer, fake_quantize
from kdcompress.methods.self_guidance import Skip
from kdcompress.methods.zero_shot import generator
from kdcompress.models.build import build
from kdcompress.training.distillation import Distillation, Member

NORM = (0.5,) * 3, (0.25,) * 3
X = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def make(name, teacher=False, **options):
    torch.manual_seed(0)
    teacher = Member(build("resnet14", 5, 3), *NORM) if teacher else None
    return Distillation(Member(build("resnet8", 5, 3), *NORM), teacher, {name: options}, X[:2])


def plain():
    return set(build("resnet8", 5, 3).state_dict())


def test_byot_exits_teach_all_but_the_classifier_and_say_what_they_need():
    distillation = make("byot")
    terms = distillation(X, Y)
    (terms["kd"] + terms["hint"]).backward()
    assert distillation.student.net.fc.weight.grad is None  # the deepest classifier teaches
    assert len(distillation.methods["byot"].exits) == 2  # of three stages

    class NoPooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 5, 3, 1, 1)

        def forward(self, x):
            return self.c(self.b(self.a(x))).mean((2, 3))

    with pytest.raises(UsageError, match="pooled"):
        Distillation(Member(NoPooled(), *NORM), None, "byot", X[:2])


def test_cs_kd_has_labels_of_the_first_half_alone():
    distillation = make("cs-kd").eval()
    terms = distillation(X, Y)
    logits = distillation.student(X).logits
    assert terms["task"].item() == pytest.approx(nn.functional.cross_entropy(logits[:3], Y[:3]).item(), rel=1e-5)
    gradient = torch.autograd.grad(distillation(X, Y)["cs-kd"], distillation.student.net.fc.weight)[0]
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("names", [("cs-kd", "self-guidance"), ("self-guidance", "cs-kd")])
def test_cs_kd_and_self_guidance_combine_in_any_order(names):
    distillation = Distillation(Member(build("resnet8", 5, 3), *NORM), None, {name: {} for name in names}, X[:2])
    terms = distillation.train()(X, Y)
    assert set(terms) == {"task", "cs-kd", "guidance"} and terms["cs-kd"] != terms["guidance"]


def test_ddgsd_is_0_where_the_views_are_the_same():
    terms = make("ddgsd").eval()(X[:3].repeat(2, 1, 1, 1), Y[:3].repeat(2))
    assert terms["kl"].item() == pytest.approx(0, abs=1e-5) and terms["mmd"].item() == pytest.approx(0, abs=1e-9)


def test_self_guidance_is_of_sub_networks_in_training_and_leaves_nothing_behind():
    distillation = make("self-guidance", share=0.5, since=0.5)
    stages = distillation.student.tapped.shapes.stages
    rows = {}
    distillation.student.net.get_submodule(stages[0].path).register_forward_hook(lambda m, a, out: rows.update(out=out))
    distillation.train()(X, Y, progress=0.6)
    full, sub = rows["out"].chunk(2)
    lost = (sub == 0).all(3).all(2) & ~(full == 0).all(3).all(2)
    assert len(full) == len(X) and 0.2 < lost.float().mean() < 0.8
    assert torch.allclose(sub[~lost], 2 * full[~lost])  # kept channels are scaled up
    assert "guidance" not in distillation(X, Y, progress=0.1)
    assert len(rows["out"]) == len(X) and not (rows["out"] == 0).all(3).all(2).any()  # before since: the whole network
    net = distillation.deployable()
    hooks = [hook for module in net.modules() for hook in module._forward_hooks.values()]
    assert not any(isinstance(hook, Skip) for hook in hooks) and set(net.state_dict()) == plain()


def test_n2n_gradients_reach_the_network_that_learns_alone():
    a, b, c = (torch.randn(4, 5, requires_grad=True) for _ in range(3))
    outer, inner = n2n_losses([a, b, c], 0.1)
    assert torch.allclose(torch.autograd.grad(outer, a)[0], 2 * (a - b) / 20, atol=1e-6)
    ga, gb, gc = torch.autograd.grad(inner, (a, b, c), allow_unused=True)
    assert ga is None and torch.allclose(gc, 2 * (c - b) / 20, atol=1e-6)
    assert torch.allclose(gb, 2 * (b - a) / 20 + 0.1 * 2 * (b - c) / 20, atol=1e-6)


def test_permuted_keeps_the_largest_in_its_place_and_moves_the_rest():
    torch.manual_seed(0)
    logits = torch.randn(50, 10)
    moved = permuted(logits)
    assert torch.equal(moved.argmax(1), logits.argmax(1)) and torch.equal(moved.amax(1), logits.amax(1))
    assert torch.equal(moved.sort(1).values, logits.sort(1).values)
    assert (moved != logits).float().mean() > 0.6


@pytest.mark.parametrize("variant", ["kd", "cwtm", "dkpp"])
def test_born_again_variants_train_the_student(variant):
    distillation = make("born-again", teacher=True, variant=variant)
    terms = distillation(X, Y)
    terms[variant].backward()
    assert terms["task"] == 0 and next(distillation.student.net.parameters()).grad.abs().sum() > 0


def test_generator_makes_images_of_any_size():
    for channels, height, width in ((3, 32, 32), (1, 28, 28), (3, 65, 96)):
        images = generator(10, channels, height, width)(torch.randn(2, 10))
        assert images.shape == (2, channels, height, width) and images.min() >= 0 and images.max() <= 1


def test_zero_shot_sees_no_training_image_or_label():
    distillation = make("zero-shot", teacher=True)
    both = []
    for x, y in ((X, Y), (0 * X, 0 * Y)):
        torch.manual_seed(1)
        both.append({name: term.item() for name, term in distillation(x, y).items()})
    assert both[0] == both[1] and both[0]["task"] == 0 and both[0]["kl"] > 0


def test_reversed_turns_the_gradient():
    x = torch.randn(3, requires_grad=True)
    y = reversed_gradient(x, 0.5)
    assert torch.equal(y, x) and torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.full((3,), -0.5))


def test_zero_shot_generator_widens_the_gap_that_the_student_closes():
    distillation = make("zero-shot", teacher=True, beta=0, reversal=1).train()
    z = torch.randn(8, 100)
    method = distillation.methods["zero-shot"]
    method.prepare = lambda batch, progress: Batch(reversed_gradient(method.generator(z), 1.0), batch.y[:0])

    def gap(parameters, steps=5):
        optimizer = torch.optim.SGD(parameters, lr=0.01)
        for _ in range(steps):
            loss = distillation(X, Y)["kl"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return distillation(X, Y)["kl"].item()

    before = distillation(X, Y)["kl"].item()
    wider = gap(method.generator.parameters())
    assert wider > before and gap(distillation.student.parameters()) < wider


def test_fake_quantize_of_two_bits_by_hand():
    weight = torch.tensor([[0.9, -0.1, 2.0], [0.0, 0.0, 0.0]], requires_grad=True)  # levels -2, 0, 2 in the first row
    quantized = fake_quantize(weight, 2)
    assert quantized.tolist() == [[0, 0, 2], [0, 0, 0]]
    assert fake_quantize(quantized, 2).tolist() == quantized.tolist()
    quantized.sum().backward()
    assert weight.grad.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_quantized_ships_a_plain_network_of_quantised_weights():
    distillation = make("quantized", teacher=True, bits=4)
    net = distillation.student.net
    sum(distillation(X, Y).values()).backward()
    assert not set(net.state_dict()) & {"conv1.weight"}
    assert net.conv1.parametrizations.weight.original.grad.abs().sum() > 0
    x = torch.randn(2, 3, 32, 32)
    before = net.eval()(x)
    snapshot = copy.deepcopy(net)  # of a training that goes on
    type(distillation.methods["quantized"]).fold(snapshot)
    assert set(snapshot.state_dict()) == plain() and torch.equal(snapshot(x), before)
    shipped = distillation.deployable()
    assert torch.equal(shipped(x), before) and set(shipped.state_dict()) == plain()
    for module in shipped.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            steps = module.weight.flatten(1) / (module.weight.flatten(1).abs().amax(1, keepdim=True) / 7)
            assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert torch.equal(copy.deepcopy(shipped)(x), before)
    assert torch.allclose(torch.export.export(shipped, (x,)).module()(x), before, atol=1e-5)


def test_quantized_leaves_the_ends_where_asked():
    net = make("quantized", teacher=True, ends=False).student.net
    layers = [name for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    plain_ones = [name for name in layers if f"{name}.weight" in net.state_dict()]
    assert plain_ones == [layers[0], layers[-1]]


def test_quantized_leaves_out_the_modules_that_are_excluded():
    net = make("quantized", teacher=True, activations=8, exclude=["conv1", "layer2"]).student.net
    layers = [name for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    plain_ones = [name for name in layers if f"{name}.weight" in net.state_dict()]
    assert plain_ones == [name for name in layers if name == "conv1" or name.startswith("layer2.")]
    assert len(plain_ones) == len(layers) - sum(isinstance(m, InputQuantizer) for m in net.modules()) > 2


def test_with_one_scale_for_all_channels_the_weights_are_on_one_grid_once_batch_norm_is_folded():
    distillation = make("quantized", teacher=True, per_channel=False)
    net = distillation.student.net
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.1, 10)
            nn.init.uniform_(module.weight, -2, 2)
    sum(distillation(X, Y).values()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    shipped = distillation.deployable().eval()
    folded = torch.nn.utils.fuse_conv_bn_eval(shipped.conv1, shipped.bn1).weight
    for weight in (folded, shipped.fc.weight):
        steps = weight / weight.abs().max() * 127
        assert torch.allclose(steps, steps.round(), atol=1e-3) and len(steps.round().unique()) > 50
    alone = shipped.conv1.weight / shipped.conv1.weight.abs().max() * 127
    assert not torch.allclose(alone, alone.round(), atol=1e-3)


def test_a_symmetric_range_is_as_wide_below_zero_as_above():
    quantizer = InputQuantizer(bits=8, symmetric=True)
    quantizer(torch.tensor([[-1.0, 0.0, 4.0]]))
    quantizer.eval()
    ends = quantizer(torch.tensor([[-9.0, 0.0, 9.0]]))[0].tolist()
    assert ends == pytest.approx([-128 * 8 / 255, 0.0, 127 * 8 / 255], rel=1e-6)
    assert quantizer(torch.full((1, 1), -1.0)).item() == pytest.approx(-1, abs=4 / 255)


def test_inputs_of_layers_are_quantised_between_a_running_minimum_and_maximum_by_hand():
    quantizer = InputQuantizer(bits=2, momentum=0.5)
    x = torch.tensor([[-1.0, 0.4, 2.0, 5.0]], requires_grad=True)
    first = quantizer(x)  # -1 and 5: steps of 2, 0 is level round(0.5) = 0, and 5 is level round(2.5) = 2
    assert (quantizer.low, quantizer.high) == (-1.0, 5.0)
    assert first.tolist() == [[0.0, 0.0, 2.0, 4.0]]
    quantizer(torch.tensor([[1.0, 3.0]]))  # the least is 0 at the most; both move half of the way
    assert (quantizer.low, quantizer.high) == (-0.5, 4.0)
    quantizer.eval()(torch.full((1, 1), 100.0))
    assert (quantizer.low, quantizer.high) == (-0.5, 4.0)
    second = quantizer(x)  # steps of 1.5 from 0 to 4.5
    assert second.tolist() == [[0.0, 0.0, 1.5, 4.5]]
    second.sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 1.0, 1.0]]  # nothing of what lies below the lowest level


def test_a_student_of_quantised_activations_ships_without_them():
    distillation = make("quantized", teacher=True, activations=8)
    net = distillation.student.net
    assert sum(isinstance(module, InputQuantizer) for module in net.modules()) == 10  # 9 convolutions, 1 linear layer
    for _ in range(3):
        sum(distillation(X, Y).values()).backward()
    x = torch.randn(4, 3, 32, 32)
    shipped = distillation.deployable()
    assert set(shipped.state_dict()) == plain() and not any(m._forward_pre_hooks for m in shipped.modules())
    difference = (shipped(x) - net.eval()(x)).abs().max()
    assert 0 < difference < 0.1 * shipped(x).abs().max()  # the rounding of the activations alone
    assert any(m._forward_pre_hooks for m in net.modules())  # the training goes on
