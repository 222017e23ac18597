"""image-labels: images with any number of labels, by a table."""

import numpy as np
import pytest
from PIL import Image

from kdcompress.data.source import load, stratified_order
from kdcompress.data.truth import strata
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

SETS = [("sun", "dog"), (), ("dog",), ("sun",), ("sun", "sea"), ("sea",)]


@pytest.fixture
def root(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(60):
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png")
    return tmp_path


def lists(root, splits=False):
    lines = ["file,labels" + (",split" if splits else "")]
    for number in range(60):
        split = f",{('train', 'Training', 'val', 'TEST')[number % 4]}" if splits else ""
        lines.append(f"photos/{number:02}.png,{'; '.join(SETS[number % 6])}{split}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


def columns(root):
    lines = ["file,dog,sea,sun"]
    for number in range(60):
        there = ",".join(str(int(name in SETS[number % 6])) for name in ("dog", "sea", "sun"))
        lines.append(f"photos/{number:02}.png,{there}")
    (root / "labels.csv").write_text("\ufeff" + "\n".join(lines))  # as spreadsheets write it


def read(root, **more):
    return load(Data(source="image-labels", root=root, **more))


def test_both_forms_are_the_same_data(root):
    lists(root)
    one = read(root)
    columns(root)
    other = read(root)
    assert one.labels == other.labels == ("dog", "sea", "sun") and one.hash == other.hash
    assert one.train.truth.dtype == np.uint8 and one.train.truth.shape == (len(one.train), 3)


def test_the_splits_are_those_of_the_table_or_are_cut_in_proportion(root):
    lists(root, splits=True)
    own = read(root)
    assert [len(split) for split in (own.train, own.validation, own.test)] == [30, 15, 15]
    first = np.asarray(Image.open(root / "photos/03.png"))
    assert (own.test.images[0] == first).all() and own.test.truth[0].tolist() == [0, 0, 1]
    lists(root)
    cut = read(root)
    assert len(cut.train) + len(cut.validation) + len(cut.test) == 60
    for split in (cut.train, cut.validation, cut.test):
        assert split.truth.mean(0).min() > 0.15 and split.truth.mean(0).max() < 0.75  # on a third or half of all


def test_a_change_of_the_table_is_other_data(root):
    lists(root)
    before = read(root).hash
    text = (root / "labels.csv").read_text()
    (root / "labels.csv").write_text(text.replace("00.png,sun; dog", "00.png,sun", 1))
    assert read(root).hash != before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line has to name its columns"),
        ("image,labels\nphotos/00.png,a", "first line has to name its columns"),
        ("file,labels\n", "no image"),
        ("file,labels\nphotos/00.png,a;b\nphotos/99.png,a", "line 3: the folder has no file 'photos/99.png'"),
        ("file,labels\n../labels.csv,a;b", "line 2: file '../labels.csv'"),
        ("file,labels\nphotos/00.png,a;b\nphotos/00.png,b", "line 3: photos/00.png is there twice"),
        ("file,labels,split\nphotos/00.png,a;b,holdout", "line 2: split 'holdout'"),
        ("file,labels\nphotos/00.png,a,b", "not as many columns as in the first line"),
        ("file,a,b\nphotos/00.png,1,yes", "'yes' in column b"),
        ("file,labels\nphotos/00.png,a", "too few labels"),
        ("file,labels,split\nphotos/00.png,a;b,test", "no training images"),
        ("file;labels;split\nphotos/00.png;a,b;train", "with commas between them"),
        ("file,label,split\nphotos/00.png,a;b,train", "'a;b' in column label"),
        ("file,labels,photographer\nphotos/00.png,a;b,me", "name its columns"),
        ("file,a,,b\nphotos/00.png,1,0,1", "name its columns"),
    ],
)
def test_what_is_wrong_with_the_table_is_said(root, text, words):
    (root / "labels.csv").write_text(text)
    with pytest.raises(UsageError) as caught:
        read(root)
    assert words in str(caught.value)


def test_without_a_table_it_is_named(root):
    with pytest.raises(UsageError, match="labels.csv"):
        read(root)


def test_wrong_labels_are_not_drawn_for_sets(root):
    lists(root)
    with pytest.raises(UsageError, match="label_noise"):
        read(root, label_noise=0.2)


def test_its_own_columns_are_known_in_any_case_and_rare_labels_are_told(root, capsys):
    lists(root, splits=True)
    text = (root / "labels.csv").read_text().replace("file,labels,split", "File, Labels ,SPLIT")
    (root / "labels.csv").write_text(text.replace("03.png,sun,TEST", "03.png,sun;comet, Test "))
    found = read(root)
    assert len(found.test) == 15 and found.labels == ("comet", "dog", "sea", "sun")
    assert "no training image has comet" in " ".join(capsys.readouterr().err.split())
    lists(root)
    text = (root / "labels.csv").read_text()
    (root / "labels.csv").write_text(text.replace("03.png,sun", "03.png,sun;comet"))
    assert sum(split.truth[:, 0].sum() for split in (read(root).train, read(root).validation, read(root).test)) == 1


def test_many_rare_labels_are_cut_in_proportion():
    truth = (np.random.default_rng(0).random((1000, 200)) < 0.02).astype(np.uint8)
    cut = truth[stratified_order(strata(truth), "key", each=False)[:100]]
    first, second = cut[:, :100].sum() / truth[:, :100].sum(), cut[:, 100:].sum() / truth[:, 100:].sum()
    assert 0.07 < first < 0.13 and 0.07 < second < 0.13
