"""Two steps of every method: in one process, or in those that torchrun starts with this file; what came of them."""

import sys

import torch
from torch import nn

from kdcompress.data.batch import Batch
from kdcompress.distributed import processes
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.models.build import build
from kdcompress.tasks import tasks
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.setup import share_state

IMAGES, ROWS, SIZE = 40, 8, 16
CLASSIFYING = [name for name in methods if tasks["classification"].takes(methods[name].needs)]
CASES = {name: (name, {}) for name in CLASSIFYING} | {
    "born-again cwtm": ("born-again", {"variant": "cwtm"}),
    "born-again dkpp": ("born-again", {"variant": "dkpp"}),
    "kdcl general": ("kdcl", {"target": "general"}),
    "quantized activations": ("quantized", {"activations": 8}),
    "kd standardized": ("kd", {"standardize": True}),
    **{
        f"{name} unlabelled": (name, {})
        for name in ("kd", "dist", "dkd", "sp", "reviewkd", "crld", "adversarial-logits")
    },
    "mlld strong": ("mlld", {"strong_view": True}),
    "mlld strong unlabelled": ("mlld", {"strong_view": True}),
}


def batch_norms(module):
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def member(name):
    """With statistics in its batch norms, so that images are told apart."""
    net = build(name, 5, 3).train()
    for norm in batch_norms(net):
        norm.momentum = 1.0
    with torch.no_grad():
        net(torch.randn(16, 3, SIZE, SIZE))
    return Member(net, (0.5,) * 3, (0.25,) * 3)


def made(name, options):
    needs = methods[name].needs
    torch.manual_seed(0)
    teachers = [member("resnet14") for _ in range(1 + needs.several)] if needs.teacher else None
    peers = [member("resnet8"), member("resnet14")] if needs.peers else ()
    example = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)
    return Distillation(member("resnet8"), teachers, {name: options}, example, peers=peers, images=IMAGES)


def batch(rows, step, rank, world, unlabelled=False):
    generator = torch.Generator().manual_seed(step)
    halves = (1 if rows == "single" else 2) * (1 + unlabelled)
    x = torch.randint(0, 256, (halves, ROWS, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 5, (ROWS,), generator=generator).expand(halves, -1)
    index = torch.randperm(IMAGES, generator=generator)[: ROWS * halves].view(halves, ROWS)
    x, y, index = (t[:, rank::world].flatten(0, 1) for t in (x, y, index))
    return Batch(x, y[: len(y) // 2] if unlabelled else y, index)


def steps(name, options, rank=0, world=1, unlabelled=False):
    """The terms, averaged over the processes, the gradients and the state after two steps."""
    distillation = made(name, options).train()
    for norm in batch_norms(distillation):
        norm.eval()  # its statistics would be those of its process's rows
    share_state(distillation)
    module = nn.parallel.DistributedDataParallel(distillation) if world > 1 else distillation
    found = {}
    for step, progress in enumerate((0.01, 0.6)):
        torch.manual_seed(step)
        b = batch(distillation.rows, step, rank, world, unlabelled)
        terms = module(b.x, b.y, progress, b.index)
        own = {term: 1.0 * (term not in ("task", "peers")) or len(terms) == 1 for term in terms}
        sum(own[term] * value for term, value in terms.items()).backward()  # the task's gradient would hide the rest
        for term, value in terms.items():
            value = value.detach().clone()
            if world > 1:
                torch.distributed.all_reduce(value)
            found[f"step {step}: {term}"] = value / world
        found |= {f"step {step}: gradient of {n}": p.grad.clone() for n, p in distillation.named_parameters()}
        distillation.zero_grad()  # and no step: what a method remembers of the first batch is what changes
    return found | {f"state: {n}": v.clone() for n, v in distillation.state_dict().items()}


def all_cases(rank=0, world=1):
    found = {}
    for case, (name, options) in CASES.items():
        try:
            found[case] = steps(name, options, rank, world, "unlabelled" in case)
        except UsageError as error:
            found[case] = str(error)
    return found


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found = all_cases(rank, processes())
    torch.save(found, f"{sys.argv[1]}-{rank}.pt")
    torch.distributed.destroy_process_group()
