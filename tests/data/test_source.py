import numpy as np
import pytest
from data_files import DATASETS, write_idx, write_images

from kdcompress.data.source import find, load, sources, statistics, stratified_order
from kdcompress.errors import UsageError
from kdcompress.recipe import Data


def rows(split):
    return {image.tobytes() for image in split.images}


def test_fashion_mnist_is_whole_and_stratified(fashion_mnist):
    source = fashion_mnist
    assert [len(s) for s in (source.train, source.validation, source.test)] == [54_000, 6_000, 10_000]
    for split, each in ((source.train, 5400), (source.validation, 600), (source.test, 1000)):
        assert split.images.dtype == np.uint8 and split.images.shape[1:] == (28, 28, 1)
        assert split.truth.dtype == np.int64
        assert np.bincount(split.truth).tolist() == [each] * 10
    assert source.labels[0] == "T-shirt/top" and source.labels[9] == "Ankle boot"
    assert source.licence == "MIT"
    assert source.mean == pytest.approx((0.286,), abs=1e-3)
    assert source.std == pytest.approx((0.353,), abs=1e-3)
    assert source.hash == "a24515969c2fee31354a5dec9079e2936f74db2275b877d4ed9393a881125b74"


def test_smaller_training_splits_are_nested_and_leave_the_others_alone(fashion_mnist):
    def small(n):
        return load(Data(source="fashion-mnist", root=DATASETS, train_images=n))

    one, two = small(250), small(1000)
    assert np.bincount(one.train.truth).tolist() == [25] * 10
    assert rows(one.train) < rows(two.train) < rows(fashion_mnist.train)
    for source in (one, two):
        assert np.array_equal(source.validation.images, fashion_mnist.validation.images)
        assert np.array_equal(source.test.truth, fashion_mnist.test.truth)
    assert one.hash != two.hash


def test_label_noise_is_symmetric_and_in_the_training_labels_alone(fashion_mnist):
    noisy = load(Data(source="fashion-mnist", root=DATASETS, label_noise=0.4))
    clean, labels = fashion_mnist.train.truth, noisy.train.truth
    wrong = labels != clean
    assert abs(wrong.mean() - 0.4) < 0.01 and noisy.hash != fashion_mnist.hash
    for part in ("validation", "test"):
        assert (getattr(noisy, part).truth == getattr(fashion_mnist, part).truth).all()
    counts = np.bincount(10 * clean[wrong] + labels[wrong], minlength=100).reshape(10, 10)
    others = counts[~np.eye(10, dtype=bool)]
    assert not counts.diagonal().any() and (abs(others / others.mean() - 1) < 0.25).all()
    few = load(Data(source="fashion-mnist", root=DATASETS, label_noise=0.4, train_images=500)).train
    by_image = {image.tobytes(): label for image, label in zip(noisy.train.images, labels)}
    assert all(by_image[image.tobytes()] == label for image, label in zip(few.images, few.truth))


def test_splits_depend_on_the_seed_alone(bare):
    write_idx(bare / "mnist")
    first, again = load(Data(source="mnist")), load(Data(source="mnist"))
    other = load(Data(source="mnist", split_seed=1))
    assert first.hash == again.hash != other.hash
    assert rows(first.train) | rows(first.validation) == rows(other.train) | rows(other.validation)
    assert not rows(first.train) & rows(first.validation)
    assert np.array_equal(first.test.images, other.test.images)


def test_the_splits_of_a_small_folder_are_the_same_everywhere(tmp_path):
    for number, name in enumerate(("ant", "bee", "cat")):
        write_images(tmp_path / name, 20, 8, 8, 3, start=number)
    source = load(Data(source="image-folder", root=tmp_path, train_images=30))
    assert [len(s) for s in (source.train, source.validation, source.test)] == [30, 5, 12]
    assert source.hash == "6efe3114ff4a228476fb9b0698fe53ce900c869594fc391c02e59e47eabf90be"


@pytest.mark.parametrize("counts", [(50, 50, 50), (1000, 90, 7, 1), (3, 300)])
def test_every_beginning_of_the_order_is_stratified(counts):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    order = stratified_order(labels, ("key", 1))
    assert sorted(order) == list(range(len(labels)))
    assert sorted(labels[order[: len(counts)]]) == list(range(len(counts)))
    for n in range(len(counts), len(labels) + 1):
        got = np.bincount(labels[order[:n]], minlength=len(counts))
        assert np.abs(got - n * np.array(counts) / len(labels)).max() <= len(counts)
    assert not np.array_equal(order, stratified_order(labels, ("key", 2)))


def test_statistics_are_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (3000, 16, 16, 3), dtype=np.uint8)
    mean, std = statistics(images)
    assert mean == pytest.approx((images / 255).mean((0, 1, 2)))
    assert std == pytest.approx((images / 255).std((0, 1, 2)))


def test_find_reads_nothing(bare):
    data = Data(source="mnist", root=bare)
    assert not find(data).ready and str(bare / "mnist") in find(data).origin
    write_idx(bare / "mnist")
    (bare / "mnist/t10k-images-idx3-ubyte").write_bytes(b"")
    assert find(data).ready and find(data).origin == str(bare / "mnist")


def test_unknown_source_names_the_known_ones():
    assert list(sources) == [
        "cifar10",
        "cifar100",
        "cityscapes",
        "coco",
        "domains",
        "fashion-mnist",
        "fashion-mnist-scenes",
        "huggingface",
        "image-folder",
        "image-labels",
        "mask-folder",
        "mnist",
        "voc",
        "voc-segmentation",
        "webdataset",
        "yolo",
    ]
    with pytest.raises(UsageError, match="no data source named 'fashion-mist'(.|\n)*did you mean 'fashion-mnist'"):
        load(Data(source="fashion-mist"))


@pytest.mark.parametrize("n", [9, 91])
def test_train_images_outside_what_is_there(bare, n):
    write_idx(bare / "mnist")
    with pytest.raises(UsageError, match=rf"train_images does not fit(.|\n)*got: {n}\n.*10 .*90"):
        load(Data(source="mnist", train_images=n))


def test_size_is_for_image_folders(bare):
    write_idx(bare / "mnist")
    assert load(Data(source="mnist", size=8)).train.images.shape[1:] == (8, 8, 1)
    with pytest.raises(UsageError, match="data.size(.|\n)*got: 32\n.*8 x 8"):
        load(Data(source="mnist", size=32))


def test_a_class_without_training_images(bare):
    write_idx(bare / "mnist", train=20)
    with pytest.raises(UsageError, match="no image in the training split(.|\n)*lower data.validation"):
        load(Data(source="mnist", validation=0.9))
    write_idx(bare / "few/mnist", train=19)
    with pytest.raises(UsageError, match=r"too few images to be split(.|\n)*got: 9 \(1\)"):
        load(Data(source="mnist", root=bare / "few"))


def test_constant_pixels(tmp_path):
    for name in "ab":
        write_images(tmp_path / name, 20, 8, 8)
        for file in (tmp_path / name).iterdir():
            file.write_bytes((tmp_path / "a/000.png").read_bytes())
    images = load(Data(source="image-folder", root=tmp_path)).train.images[:]
    assert images.std() > 0
    from PIL import Image

    for file in tmp_path.glob("*/*"):
        Image.new("L", (8, 8), 7).save(file)
    with pytest.raises(UsageError, match="Every pixel of a channel has the same value"):
        load(Data(source="image-folder", root=tmp_path))
