"""A training on the images of a folder, and the most memory that it took beyond the libraries, in bytes."""

import re
import sys
from functools import partial
from pathlib import Path

import torch
import torchvision.transforms.v2.functional  # noqa: F401
from torch import nn

from kdcompress.data.source import load
from kdcompress.recipe import Augment, Data, Train
from kdcompress.training import engine, setup
from kdcompress.training.distillation import Distillation, Member


def peak():
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])


root, size, limit, folder = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
before = peak()
data = load(Data(source="image-folder", root=root, size=size, validation=0.02))
setup.Loader = partial(setup.Loader, memory_limit=limit)
torch.manual_seed(0)
net = nn.Sequential(nn.AvgPool2d(size // 8), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
example = torch.from_numpy(data.train.images[:2]).permute(0, 3, 1, 2)
distillation = Distillation(Member(net, data.mean, data.std), None, {"none": {}}, example)
train = Train(epochs=2, batch_size=16, precision="fp32", lr=0.01)
result = engine.train(distillation, data, train, Augment(flip=True), 0, folder)
print(data.train.images.nbytes + data.validation.images.nbytes + data.test.images.nbytes, peak() - before)
print(data.hash, result.history[-1]["loss"], *result.last_weights["4.weight"].flatten()[:4].tolist())
