"""What a pre-training is made of: a teacher of features, a student, and images whose labels are not looked at."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kdcompress.errors import KDCompressError, UsageError, cause, place
from kdcompress.models.build import build, pretrained_facts
from kdcompress.models.checkpoint import facts_of, load_weights
from kdcompress.models.evaluating import evaluating
from kdcompress.models.timm_places import is_timms
from kdcompress.own_code import is_own
from kdcompress.pipelines.networks import UNTRAINED, Networks, Weights
from kdcompress.pipelines.parts import Role
from kdcompress.pipelines.preflight import SIZE_OPTIONS
from kdcompress.recipe import Foundation, Pretrain
from kdcompress.training.distillation import Distillation, Member

TEACHER: Role = "teacher"  # the recipe's own, where the pre-training has none
WHERE = "pretrain.teacher"


def distillation(networks: Networks, role: Role, weights: Weights = UNTRAINED) -> Distillation:
    """What is trained: the role's network from its first weights, taught by the features of a teacher. What no feature
    depends on, as a classifier, stays as it is.

    Raises UsageError for a teacher that does not run at its size or gives no features, and for a student that has
    nothing to compare."""
    pretrain = asked(networks, role)
    if pretrain.teacher:
        teacher = foundation(networks, pretrain.teacher)
    else:
        teacher = networks.member(TEACHER, networks.network(TEACHER, weights))
    found = Distillation(
        networks.member(role, networks.untrained(role)),  # last, so that auxiliary modules start from the role's seed
        [teacher],
        pretrain.method,
        networks.example(),
        images=len(networks.sources.without_labels.train),
        task=None,
    )
    keep_the_rest(found, networks.example())
    return found


def asked(networks: Networks, role: Role) -> Pretrain:
    pretrain = networks.parts[role].pretrain
    assert pretrain is not None  # only such roles have this step
    return pretrain


def keep_the_rest(found: Distillation, x: torch.Tensor) -> None:
    """Parameters that no term depends on are not trained: weight decay would shrink them. ``x``: a batch."""
    parameters = [each for each in found.student.parameters() if each.requires_grad]
    with torch.random.fork_rng([]), torch.enable_grad(), evaluating(found):
        terms = found(x, torch.zeros(len(x), dtype=torch.int64), index=torch.arange(len(x)))
        total = torch.stack(list(terms.values())).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    found.teacher_passes = 0
    for parameter, gradient in zip(parameters, gradients):
        parameter.requires_grad_(gradient is not None)


# The teacher


def foundation(networks: Networks, network: Foundation) -> Member:
    """A teacher of features with its weights, which sees images at its own size and normalisation: a network of timm or
    a callable of the user's own without a classifier, any other with its own."""
    said: dict[str, Any] = facts_of(network.weights) if network.weights else {}
    known = pretrained_facts(network.model, network.options) if network.pretrained else None
    bare = not said.get("labels") and (is_timms(network.model) or is_own(network.model))
    classes = known.classes if known else len(said.get("labels") or networks.source.labels)
    if known or said.get("mean"):
        channels = len(known.mean if known else said["mean"])
    else:  # grey images are shown in three channels
        channels = 3 if is_timms(network.model) else networks.source.train.images.shape[-1]
    torch.manual_seed(networks.recipe.seed)
    net = build(network.model, 0 if bare else classes, channels, network.options, network.pretrained)
    if network.weights:
        load_weights(net, network.weights, network.weights_key)
    mean, std = normalisation(networks, network, net, said, channels)
    member = Member(net, mean, std, network.taps, side(network, net), features=bare)
    _try(networks, network, member)
    return member


def normalisation(
    networks: Networks, network: Foundation, net: nn.Module, said: dict[str, Any], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of its pixels, one a channel: as given, as the weights' file says, as its library does, else those
    of the training images."""
    if network.mean and network.std:
        mean, std = (each * channels if len(each) == 1 else each for each in (network.mean, network.std))
        return mean, std
    if said.get("mean"):
        return said["mean"], said["std"]
    if network.pretrained:
        known = pretrained_facts(network.model, network.options)
        return known.mean, known.std
    declared: Any = getattr(net, "default_cfg", None) or {}
    if is_timms(network.model) and declared.get("mean"):
        return tuple(declared["mean"]), tuple(declared["std"])
    return networks.source.mean, networks.source.std


def side(network: Foundation, net: nn.Module) -> int | None:
    """Of its square input, in pixels: as given, as it was made, as its library says; None: the images'."""
    if network.size:
        return network.size
    declared: Any = getattr(net, "default_cfg", None) or {}
    for value in (*(network.options.get(name) for name in SIZE_OPTIONS), declared.get("input_size")):
        last = value[-1] if isinstance(value, (tuple, list)) else value
        if isinstance(last, int):
            return last
    return None


def _try(networks: Networks, network: Foundation, member: Member) -> None:
    """Raises UsageError where it does not run."""
    x = member.input(networks.example())
    try:
        with evaluating(member.net), torch.no_grad():
            member.net(x)
    except (KDCompressError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise UsageError(
            f"{network.model} does not run on these images.",
            where=place(error) or WHERE,
            got=f"{cause(error)}; images [N, {', '.join(map(str, x.shape[1:]))}]",
            hint=_remedy(networks, network, member.net) or "look at what it asks of its input, at `size` and `options`",
        ) from error


def _remedy(networks: Networks, network: Foundation, net: nn.Module) -> str:
    """With what it runs: each that is named was tried."""
    declared: Any = getattr(net, "default_cfg", None) or {}
    own, found = (declared.get("input_size") or (224,))[-1], []
    if _works(networks, network.model_copy(update={"size": own})):
        found.append(f"`{WHERE}.size: {own}`, its own")
    for option in SIZE_OPTIONS if network.size else ():
        if _works(networks, network.model_copy(update={"options": {**network.options, option: network.size}})):
            found.append(f"`{WHERE}.options: {{{option}: {network.size}}}` makes it for this size")
            break
    return ", or ".join(found)


def _works(networks: Networks, network: Foundation) -> bool:
    """Whether a network of this kind runs, with any weights."""
    try:
        net = build(network.model, 0, 3, network.options)
        x = Member(net, (0.5,) * 3, (0.5,) * 3, size=side(network, net)).input(networks.example())
        with evaluating(net), torch.no_grad():
            net(x)
        return True
    except (Exception, SystemExit):
        return False
