import pytest
from data_files import DATASETS

from kdcompress.data import from_torchvision
from kdcompress.data.fetch import fetch
from kdcompress.data.source import load
from kdcompress.recipe import Data


@pytest.fixture(scope="session")
def fashion_mnist():
    fetch("fashion-mnist", DATASETS)
    return load(Data(source="fashion-mnist", root=DATASETS))


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine with no data set on it. Returns an empty folder, its default root."""
    root = tmp_path / "default"
    monkeypatch.setenv("KDCOMPRESS_DATA", str(root))
    monkeypatch.setattr(from_torchvision, "SYSTEM", tmp_path / "system")
    return root
