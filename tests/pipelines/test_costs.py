"""What a step of a method costs, counted."""

import pytest
import torch

from kdcompress.methods import methods
from kdcompress.models.build import build
from kdcompress.models.counting import count_parameters, macs
from kdcompress.pipelines.costs import PAIR, cost


def test_arithmetic_of_the_baseline_and_of_kd_by_hand():
    example = torch.zeros(1, 3, 32, 32)
    teacher, student = (macs(build(name, 100, 3), example) for name in PAIR)
    first = 3 * 16 * 9 * 32 * 32  # the first layer's input needs no gradient
    assert cost("none")["step_macs"] == pytest.approx(3 * student - first)
    assert cost("kd")["step_macs"] == pytest.approx(teacher + 3 * student - first)


@pytest.mark.parametrize("name", ["reviewkd", "simkd", "norm", "dml", "sskd"])
def test_passes_and_parameters(name):
    found, student = cost(name), count_parameters(build(PAIR[1], 100, 3))
    assert found["passes"] == {
        "teacher": {"dml": 0, "sskd": 4}.get(name, 1),
        "student": {"sskd": 4}.get(name, 1),
        "peer": {"dml": 1}.get(name, 0),
    }
    assert found["extra_parameters"] > 0 and (found["shipped_parameters"] > 0) == (methods[name].deploy == "keep")
    assert name != "dml" or found["extra_parameters"] == student
