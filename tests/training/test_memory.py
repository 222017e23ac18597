"""What is freed in a training stays with the process, and is given back after it."""

import subprocess
import sys

import pytest

CODE = """
import resource, torch
from kdcompress.training.memory import freed_memory_kept

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(24 * 2**20)  # 96 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

given_back = faults(4)
with freed_memory_kept():
    faults(8)
    kept, inside = min(faults(4) for _ in range(8)), resident()
print(given_back, kept, inside - resident(), faults(4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_tensors_are_not_mapped_again_and_again():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, inside, freed, after = map(float, done.stdout.split())
    pages = 96 * 2**20 / 4096
    assert inside < 0.01 * before and before > pages / 600 and after > 0.1 * before  # huge pages have 512 times 4 KiB
    assert freed > 96
