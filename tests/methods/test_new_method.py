"""A new method is one file, with no other edit: the tests of all methods pick it up."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kdcompress
from kdcompress.errors import UsageError
from kdcompress.models.build import build

METHOD = '''
"""The student's pooled feature has the teacher's length."""

from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs


@methods.register("feature-length")
class FeatureLength(Method):
    """Pooled features of one length."""

    class Options(MethodOptions):
        weight: float = 0.1

    paper = "nowhere yet"
    needs = Needs(student="pooled", teacher="pooled")

    def terms(self, batch, student, teacher, progress):
        difference = student.pooled.float().norm(dim=1) - teacher.pooled.float().norm(dim=1)
        return {"length": self.options.weight * difference.square().mean()}
'''

RUN = """
import sys, pytest, kdcompress.methods
kdcompress.methods.__path__.append(sys.argv[1])
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", sys.argv[2], "-k", "feature-length"]))
"""


def test_a_new_file_is_found_and_tested(tmp_path):
    (tmp_path / "feature_length.py").write_text(METHOD)
    tests = Path(__file__).with_name("test_methods.py")
    found = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path, tests], capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert int(found.stdout.split(" passed")[0].split()[-1]) >= 8


def test_a_method_of_ones_own_is_named_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/length.py").write_text(METHOD.replace('@methods.register("feature-length")\n', ""))
    monkeypatch.chdir(tmp_path)
    x, name = torch.rand(4, 3, 32, 32), "mine.length:FeatureLength"
    student, teacher = build("resnet8", 5, 3), build("resnet14", 5, 3)
    distillation = kdcompress.Distillation(student, teacher, method=["kd", {name: {"weight": 2}}], example=x)
    assert set(distillation(x, torch.tensor([0, 1, 2, 3]))) == {"task", "kd", "length"}
    for wrong, message in (
        ("mine.length:Methods", "callable in mine.length"),
        ("mine.nowhere:FeatureLength", "cannot be imported"),
        ("mine.length:MethodOptions", "is no method"),
        (":FeatureLength", "package.module:NAME"),
    ):
        with pytest.raises(UsageError, match=message):
            kdcompress.Distillation(student, teacher, method=wrong, example=x)
