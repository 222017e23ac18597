"""Several processes on one machine (gloo on the CPU): they train what one process would have trained."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import step_of_each_method
import torch

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def torchrun(*arguments, limit=300, restarts=0):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--max-restarts", str(restarts), *map(str, arguments)]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What each of two processes found."""
    path = tmp_path_factory.mktemp("steps") / "found"
    done = torchrun(step_of_each_method.__file__, path)
    assert done.returncode == 0, done.stderr
    return [torch.load(f"{path}-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", step_of_each_method.CASES)
def test_two_processes_take_the_step_of_one_or_say_why_not(case, of_two):
    first, second = (found[case] for found in of_two)
    if isinstance(first, str):
        assert "one process" in first
        return
    one = step_of_each_method.steps(*step_of_each_method.CASES[case])
    assert set(one) == set(first) == set(second)
    for name, value in one.items():
        step, _, what = name.partition(": ")
        alike = [v for n, v in one.items() if n.startswith(f"{step}: gradient")] if "gradient" in what else []
        atol = 1e-5 * max([float(gradient.abs().max()) for gradient in alike], default=1.0)
        for found in (first, second):
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=atol, msg=partial("{}: {}".format, name))
