"""Files of answers: what is read of them, and that none is believed before it is looked at."""

import hashlib
import zipfile

import numpy as np
import pytest

from kdcompress.data.given import digests, read_answers, write_answers
from kdcompress.errors import UsageError

LABELS = ("ant", "bee", "cat")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), np.uint8)
HASHES = [hashlib.sha256(image.tobytes()).hexdigest() for image in IMAGES]
LOGITS = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
SHARES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
GOOD = {"sha256": np.array(HASHES), "logits": LOGITS, "labels": np.array(LABELS)}


def saved(folder, save=np.savez, **arrays):
    path = folder / "answers.npz"
    save(path, **arrays)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"sha256": np.array([bytes.fromhex(each) for each in HASHES]).view(np.uint8).reshape(5, 32)},
        {"sha256": np.array([each.encode() for each in HASHES])},
        {"logits": np.asfortranarray(LOGITS)},
        {"logits": LOGITS.astype(np.float64)},
        {"logits": LOGITS[:, None]},
        {"labels": None},
    ],
)
def test_answers_are_found_by_the_pixels(tmp_path, save, change):
    path = saved(tmp_path, save, **{key: value for key, value in (GOOD | change).items() if value is not None})
    given = read_answers(path, LABELS)
    assert given.views == 1 and given.augment is None and given.labels == (LABELS if "labels" not in change else None)
    other = np.zeros((1, 4, 4, 1), np.uint8)
    places = given.places(digests(np.concatenate([IMAGES[::-1], other])))
    assert places.tolist() == [4, 3, 2, 1, 0, -1]
    np.testing.assert_array_equal(given.logits(places[:5]), LOGITS[::-1])


def test_probabilities_are_their_logarithms(tmp_path):
    shares = SHARES.copy()
    shares[0] = [1, 0, 0]
    given = read_answers(saved(tmp_path, sha256=np.array(HASHES), probabilities=shares), LABELS)
    found = given.logits(np.arange(5))
    np.testing.assert_allclose(np.exp(found[1:]), SHARES[1:], rtol=1e-6)
    assert np.isfinite(found).all() and found[0, 1] == pytest.approx(np.log(1e-12))


def test_what_is_written_is_read(tmp_path):
    values = np.random.default_rng(2).normal(size=(5, 2, 3)).astype(np.float16)
    classes = np.tile(np.array([2, 0], np.uint8), (5, 2, 1))
    path, augment = tmp_path / "a.npz", {"crop": 0, "flip": True}
    write_answers(
        path,
        [digests(IMAGES[:3]), digests(IMAGES[3:])],
        {"values": values, "classes": classes},
        LABELS,
        augment,
        {"x": 1},
    )
    given = read_answers(path, LABELS)
    assert (given.views, given.augment, given.about, given.sets) == (2, augment, {"x": 1}, (3, 2))
    found, v = given.logits(np.array([7])), values.reshape(10, 3)[7].astype(np.float32)
    assert found.tolist() == [[v[0] + v[1], v[0] + v[2], v[0]]]  # classes 2 and 0, and the rest


TABLES = {
    "a.csv": "path,ant,bee,cat\na/1.png,0.5,0.25,0.25\n\nb/2.png,1,0,0\n",
    "a.jsonl": '{"path": "a/1.png", "probabilities": {"ant": 0.5, "cat": 0.25, "bee": 0.25}}\n\n'
    '{"path": "b/2.png", "probabilities": {"ant": 1}}\n',
}


@pytest.mark.parametrize("name", [*TABLES, "folder"])
def test_tables_of_an_endpoint(tmp_path, name):
    if name == "folder":
        first, second = TABLES["a.csv"].splitlines()[1], TABLES["a.jsonl"].splitlines()[2]
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "1.csv").write_text(f"path,ant,bee,cat\n{first}\n")
        (tmp_path / "folder" / "2.jsonl").write_text(second)
        (tmp_path / "folder" / "readme.txt").write_text("not answers")
    else:
        (tmp_path / name).write_text(TABLES[name])
    given = read_answers(tmp_path / name, LABELS)
    assert given.by_path and given.keys.tolist() == ["a/1.png", "b/2.png"]
    shares = np.exp(given.logits(np.arange(2)))
    np.testing.assert_allclose(shares, [[0.5, 0.25, 0.25], [1, 0, 0]], atol=1e-6)
    assert given.places(np.array(["b/2.png", "c"])).tolist() == [1, -1]


def test_classes_that_are_not_named_share_what_is_left(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"path": "x", "probabilities": {"bee": 0.9}}')
    shares = np.exp(read_answers(tmp_path / "a.jsonl", LABELS).logits(np.arange(1)))
    np.testing.assert_allclose(shares, [[0.05, 0.9, 0.05]], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.csv", "path,ant,bee,wasp\nx,1,0,0\n", "classes wasp"),
        ("a.csv", "path,ant,bee,cat\nx,1,0\n", "3 values"),
        ("a.csv", "path,ant,bee,cat\nx,1,0,y\n", "could not convert"),
        ("a.csv", "path,ant,bee,cat\nx,0.5,0.1,0.1\n", "add up to 0.7"),
        ("a.csv", "path,ant,bee,cat\nx,1,0,0\nx,1,0,0\n", "two answers"),
        ("a.csv", "image,ant,bee,cat\nx,1,0,0\n", "path, then each class once"),
        ("a.csv", "path,ant,bee,cat\nx,nan,0,0\n", "0 to 1 each"),
        ("a.csv", "", "path, then each class once"),
        ("a.jsonl", "", "no answers in it"),
        ("a.jsonl", '{"path": "x", "probabilities": {"ant": 2}}', "0 to 1 each"),
        ("a.jsonl", '{"path": "x", "probabilities": {"ant": true}}', "0 to 1 each"),
        ("a.jsonl", '{"path": "x", "probabilities": {"ant": 0.9, "bee": 0.9}}', "add up to 1.8"),
        ("a.jsonl", '{"path": 3, "probabilities": {}}', "line 1"),
        ("a.jsonl", "[1", "not valid JSON"),
        ("a.jsonl", '{"path": "x", "probabilities": {"ant": NaN}}', "not a number"),
        ("a.jsonl", "\ud800".encode("utf-8", "surrogatepass"), "cannot be read"),
    ],
)
def test_lines_that_cannot_be_read_are_named(tmp_path, name, text, why):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as told:
        read_answers(tmp_path / name, LABELS)
    assert why in str(told.value) and str(tmp_path / name) in str(told.value)


WRONG = {
    "no images": {"sha256": None},
    "both keys": {"paths": np.array(list("abcde"))},
    "no answers": {"logits": None},
    "two kinds of answers": {"probabilities": SHARES},
    "an answer too few": {"logits": LOGITS[:4]},
    "not a number": {"logits": np.where(LOGITS.max() == LOGITS, np.nan, LOGITS)},
    "integers": {"logits": np.zeros((5, 3), np.int64)},
    "objects": {"logits": np.array([[{}] * 3] * 5, object)},
    "a label too few": {"labels": np.array(LABELS[:2])},
    "a label twice": {"labels": np.array(["ant", "ant", "cat"])},
    "no digits": {"sha256": np.array(["x" * 64] * 5)},
    "short hashes": {"sha256": np.array(["ab"] * 5)},
    "hashes of another length": {"sha256": np.zeros((5, 16), np.uint8)},
    "other arrays": {"pixels": IMAGES},
    "views of nothing": {"views": np.array(2), "logits": np.stack([LOGITS, LOGITS], 1)},
    "too many views": {"views": np.array(10**9), "augment": np.array("{}")},
    "no JSON": {"augment": np.array("{")},
    "other JSON": {"augment": np.array("[]")},
    "sets that do not add up": {"sets": np.array([3, 3])},
    "one class": {"logits": LOGITS[:, :1], "labels": None},
    "no image": {"sha256": np.zeros((0, 32), np.uint8), "logits": LOGITS[:0]},
}


@pytest.mark.parametrize("what", WRONG)
def test_arrays_that_do_not_fit(tmp_path, what):
    arrays = {key: value for key, value in (GOOD | WRONG[what]).items() if value is not None}
    with pytest.raises(UsageError) as told:
        read_answers(saved(tmp_path, **arrays), LABELS)
    assert "answers.npz" in str(told.value)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": np.array([[[2, 2]]] * 5, np.uint8)},
        {"classes": np.array([[[2, 3]]] * 5, np.uint8)},
        {"classes": np.array([[[2, -1]]] * 5, np.int16)},
        {"classes": np.array([[[2]]] * 5, np.uint8)},
        {"classes": None},
        {"values": np.full((5, 1, 3), np.inf, np.float16)},
    ],
)
def test_parts_of_answers_that_are_none(tmp_path, change):
    arrays = {"values": np.zeros((5, 1, 3), np.float16), "classes": np.array([[[2, 0]]] * 5, np.uint8)} | change
    arrays = {**GOOD, **arrays, "logits": None}
    with pytest.raises(UsageError):
        read_answers(saved(tmp_path, **{key: value for key, value in arrays.items() if value is not None}), LABELS)


def test_a_damaged_file_is_told_wherever_it_is_damaged(tmp_path):
    path = saved(tmp_path, **GOOD)
    whole, wrong = path.read_bytes(), 0
    for at in [*range(0, len(whole), 97), len(whole) - 10]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            given = read_answers(path, LABELS)
        except UsageError:
            wrong += 1
        else:  # a byte that says nothing, such as a time
            np.testing.assert_array_equal(given.logits(np.arange(5)), LOGITS)
    assert wrong > 10
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(UsageError):
            read_answers(path, LABELS)


def test_what_a_file_says_of_its_size_is_not_believed(tmp_path):
    path = tmp_path / "answers.npz"
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3), }"
    huge = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("logits.npy", huge)
        with pytest.raises(UsageError, match="not a file of answers"):
            read_answers(path, LABELS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../logits.npy", huge)
    with pytest.raises(UsageError, match="not a file of answers"):
        read_answers(path, LABELS)


def test_no_file_and_an_empty_folder(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_answers(tmp_path / "none.npz", LABELS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="no answers"):
        read_answers(tmp_path / "folder", LABELS)
