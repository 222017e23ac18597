import gzip
import hashlib
import http.server
import pickle
import socket
import threading

import numpy as np
import pytest
import torchvision
from data_files import idx, pixels, write_idx

from kdcompress.data import from_torchvision
from kdcompress.data.source import load
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

TRAIN = "train-images-idx3-ubyte"


@pytest.fixture
def offline(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.mark.parametrize("place", ["mnist", "MNIST/raw"])
def test_looks_at_the_root_then_the_default_root_then_the_system(bare, tmp_path, place):
    write_idx(tmp_path / "system/mnist")
    assert load(Data(source="mnist")).origin == str(tmp_path / "system/mnist")
    write_idx(bare / place)
    assert load(Data(source="mnist")).origin == str(bare / place)
    write_idx(tmp_path / "own" / place)
    assert load(Data(source="mnist", root=tmp_path / "own")).origin == str(tmp_path / "own" / place)
    assert load(Data(source="mnist", root=tmp_path / "own" / place)).origin == str(tmp_path / "own" / place)


def test_plain_and_gzipped_files_are_the_same(bare, tmp_path):
    write_idx(bare / "mnist")
    write_idx(tmp_path / "packed/mnist")
    for file in list((tmp_path / "packed/mnist").iterdir()):
        file.with_suffix(".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert load(Data(source="mnist")).hash == load(Data(source="mnist", root=tmp_path / "packed")).hash


def test_when_all_fails_each_place_is_named(bare, tmp_path, offline):
    write_idx(bare / "fashion-mnist")
    (bare / "fashion-mnist" / TRAIN).unlink()
    with pytest.raises(UsageError) as error:
        load(Data(source="fashion-mnist", root=tmp_path / "own"))
    text = str(error.value)
    for part in (
        f"{tmp_path / 'own'}: not there",
        f"{tmp_path / 'own/FashionMNIST/raw'}: not there",
        f"{bare / 'fashion-mnist'}: incomplete, no {TRAIN}",
        f"{tmp_path / 'system/fashion-mnist'}: not there",
        "download into",
        "Name or service not known",
        "python -m kdcompress.data.fetch fashion-mnist",
        "apt-get install dataset-fashion-mnist",
        "https://github.com/zalandoresearch/fashion-mnist",
    ):
        assert part in text
    assert not list((tmp_path / "own").iterdir())


def test_a_server_that_never_answers_is_given_up(bare, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        monkeypatch.setattr(from_torchvision, "TIMEOUT", 0.2)
        with pytest.raises(UsageError, match="timed out"):
            load(Data(source="mnist"))


def test_an_answer_that_is_not_http(bare, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(1000)
                connection.sendall(b"hello\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.getsockname()[1]}/"])
        with pytest.raises(UsageError, match="the site's answer is broken: hello"):
            load(Data(source="mnist"))


def serve(folder):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_):
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_download_is_put_in_place_whole(bare, tmp_path, monkeypatch):
    write_idx(tmp_path / "site")
    resources = []
    for file in sorted((tmp_path / "site").iterdir()):
        packed = file.with_name(file.name + ".gz")
        packed.write_bytes(gzip.compress(file.read_bytes()))
        resources.append((packed.name, hashlib.md5(packed.read_bytes()).hexdigest()))
    server = serve(tmp_path / "site")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    source = load(Data(source="mnist"))
    server.shutdown()
    assert source.origin == str(bare / "mnist")
    assert [folder.name for folder in bare.iterdir()] == ["mnist"]
    assert load(Data(source="mnist")).hash == source.hash  # the server is gone


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN + ".gz", gzip.compress(idx(pixels(100, 8, 8)))[:-20], "end-of-stream"),
        (TRAIN + ".gz", b"<html>404</html>", "Not a gzipped file"),
        (TRAIN, b"", "0 bytes\n  allowed: a header of 16 bytes"),
        (TRAIN, idx(pixels(100, 64)), "magic number 00000802\n  allowed: 00000803"),
        (TRAIN, idx(pixels(100, 8, 8))[:-5], "6395 bytes after the header\n  allowed: 100 x 8 x 8"),
        (TRAIN, idx(pixels(100, 8, 8))[:4] + b"\x7f\xff\xff\xff" * 3, "more than a file of these data sets holds"),
        (TRAIN + ".gz", gzip.compress(idx(pixels(100, 8, 8)) + bytes(10**7)), "more than 6400 bytes after the header"),
        (TRAIN, idx(pixels(100, 8, 8)) + b"more", "more than 6400 bytes after the header"),
        (TRAIN, idx(np.zeros((0, 8, 8), np.uint8)), "an empty array, 0 x 8 x 8"),
        (TRAIN, idx(pixels(99, 8, 8)), "99 images, 100 labels"),
        (TRAIN, idx(pixels(100, 9, 9)), "differ in size(.|\n)*training 9 x 9 x 1, .*test 8 x 8 x 1"),
        ("train-labels-idx1-ubyte", idx(np.arange(100, dtype=np.uint8)), "out of range(.|\n)*0 to 99\n.*0 to 9"),
    ],
)
def test_broken_idx_files(bare, name, content, message):
    write_idx(bare / "mnist")
    (bare / "mnist" / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        load(Data(source="mnist"))
    assert str(bare / "mnist") in str(error.value)
    if "bytes" in message:
        assert name in str(error.value)


def write_cifar(monkeypatch, folder, dataset, key, meta, classes, files):
    folder.mkdir(parents=True)
    listed = []
    for number, name in enumerate(files):
        batch = {"data": pixels(40, 3072, start=number), key: [n % classes for n in range(40)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: [f"class {n}" for n in range(classes)]}))
    sums = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    listed = [[name, sums[name]] for name in files]
    monkeypatch.setattr(dataset, "train_list", listed[:-1])
    monkeypatch.setattr(dataset, "test_list", listed[-1:])
    monkeypatch.setattr(dataset, "meta", {**meta, "md5": sums[meta["filename"]]})


def write_cifar10(monkeypatch, root):
    dataset = torchvision.datasets.CIFAR10
    files = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    write_cifar(monkeypatch, root / "cifar-10-batches-py", dataset, "labels", dataset.meta, 10, files)


def test_cifar(bare, monkeypatch):
    write_cifar10(monkeypatch, bare)
    source = load(Data(source="cifar10"))
    assert [len(s) for s in (source.train, source.validation, source.test)] == [180, 20, 40]
    assert source.test.images.shape == (40, 32, 32, 3) and len(source.mean) == len(source.std) == 3
    stored = pixels(40, 3, 32, 32, start=5)
    assert np.array_equal(source.test.images[7, :, :, 2], stored[7, 2])

    dataset = torchvision.datasets.CIFAR100
    write_cifar(monkeypatch, bare / "cifar-100-python", dataset, "fine_labels", dataset.meta, 20, ["train", "test"])
    assert load(Data(source="cifar100")).labels == tuple(f"class {n}" for n in range(20))


def test_a_changed_cifar_file_is_not_unpickled(bare, monkeypatch):
    write_cifar10(monkeypatch, bare)
    (bare / "cifar-10-batches-py/data_batch_3").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UsageError, match="data_batch_3\n.*got: md5 (.|\n)*delete it"):
        load(Data(source="cifar10"))


def test_cifar_archive_in_the_root_is_unpacked(bare, tmp_path, monkeypatch, offline):
    import shutil

    write_cifar10(monkeypatch, tmp_path / "made")
    archive = shutil.make_archive(str(tmp_path / "cifar-10-python"), "gztar", tmp_path / "made")
    bare.mkdir()
    shutil.move(archive, bare / "cifar-10-python.tar.gz")
    content = (bare / "cifar-10-python.tar.gz").read_bytes()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
    assert load(Data(source="cifar10")).origin == str(bare / "cifar-10-batches-py")
