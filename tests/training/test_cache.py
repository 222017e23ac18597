"""The teacher cache: bit for bit what the teacher answers, whoever fills it, and whatever happens meanwhile."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from forked import Forked
from test_engine import SIDE, source
from torch import nn

from kdcompress.data.loader import Loader
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.models.build import build
from kdcompress.recipe import Augment, Train
from kdcompress.training import answers, cache, engine, opening
from kdcompress.training.distillation import Distillation, Member

FLIP = Augment(flip=True)
TRAIN = {"epochs": 3, "batch_size": 32, "lr": 0.02, "precision": "fp32"}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of the answers, empty."""
    folder = tmp_path / "answers"
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", str(folder))
    return folder


def distillation(data, method="kd", teachers=1, seed=0, **rest):
    def member(name, seed):
        torch.manual_seed(seed)
        return Member(build(name, 4, 1), data.mean, data.std)

    taught = [member("resnet14", 7 + number) for number in range(teachers)]
    example = torch.from_numpy(data.train.images[:2]).permute(0, 3, 1, 2)
    return Distillation(member("resnet8", seed), taught, method, example, images=len(data.train), **rest)


def run(folder, method="kd", augment=FLIP, seed=0, teachers=1, data=None, tell=lambda *_: None, **options):
    data = data or source(96)
    folder.mkdir(exist_ok=True)
    made = distillation(data, method, teachers, seed)
    return engine.train(made, data, Train(**{**TRAIN, **options}), augment, seed, folder, tell)


def same(one, other):
    """Bit by bit: the weights of the last step, and the losses of all epochs."""
    losses = [[epoch["terms"] for epoch in result.history] for result in (one, other)]
    weights = zip(one.last_weights.values(), other.last_weights.values(), strict=True)
    return losses[0] == losses[1] and all(torch.equal(a, b) for a, b in weights)


@pytest.mark.parametrize(
    ("method", "teachers", "precision"),
    [
        ("kd", 1, "fp32"),
        ("dkd", 1, "fp32"),
        ("crd", 1, "fp32"),
        (["kd", "rkd"], 1, "fp32"),
        ("multi-teacher", 2, "fp32"),
        ("kd", 1, "bf16"),
        ("pkt", 1, "bf16"),
    ],
)
def test_filling_and_reading_it_trains_as_the_teacher_does(tmp_path, kept, method, teachers, precision):
    same_for_all = {"method": method, "teachers": teachers, "precision": precision}
    online = run(tmp_path / "online", teacher_cache="off", **same_for_all)
    assert online.teacher_cache["kept"] == "no" and not kept.exists()
    shown = online.teacher_passes
    assert 0 < shown <= teachers * 3 * 96
    first = run(tmp_path / "first", **same_for_all)
    again = run(tmp_path / "again", **same_for_all)
    assert same(first, online) and same(again, online)
    # each of the 96 x 2 views that were met was computed once, but for the padding of an epoch's last batches
    assert shown / 3 < first.teacher_passes == first.teacher_cache["misses"] <= teachers * (192 + 2 * 31)
    assert again.teacher_passes == again.teacher_cache["misses"] == 0
    assert again.teacher_cache["hits"] == shown
    assert len(list(kept.glob("*.answers"))) == teachers and again.teacher_cache["bytes"] > 0


def test_another_seed_student_and_method_share_it_and_are_exact(tmp_path, kept):
    first = run(tmp_path / "first", epochs=4)
    online = run(tmp_path / "online", "dkd", seed=1, teacher_cache="off")
    shared = run(tmp_path / "shared", "dkd", seed=1)
    assert same(shared, online)
    assert len(list(kept.glob("*.answers"))) == 1
    assert 0 < shared.teacher_passes < first.teacher_passes / 2


def test_terms_that_end_ask_the_teacher_no_more(tmp_path, kept):
    method = {"kd": {"until": 0.3}}
    online, first = (run(tmp_path / mode, method, teacher_cache=mode) for mode in ("off", "exact"))
    assert same(first, online) and first.teacher_passes == online.teacher_passes == 96


def test_images_of_pairs_are_found_in_both_halves(tmp_path, kept):
    class Views(methods["kd"]):
        needs = replace(methods["kd"].needs, rows="views")

        def terms(self, batch, student, teacher, progress):
            assert len(teacher.logits) == 2 * 32
            return super().terms(batch, student, teacher, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods._entries, "kd-of-views", Views)
        online, first, again = (
            run(tmp_path / name, "kd-of-views", teacher_cache=mode)
            for name, mode in (("online", "off"), ("first", "exact"), ("again", "exact"))
        )
    assert same(first, online) and same(again, online) and again.teacher_passes == 0 < first.teacher_passes


@pytest.mark.parametrize("method", ["crld", {"mlld": {"strong_view": True}}])
def test_two_views_of_each_image_are_found(tmp_path, kept, method):
    """The first ones and the strong second ones, each of the four of its own."""
    views = Augment(crop=1, flip=True, views=4)
    online, first, again = (
        run(tmp_path / name, method, views, teacher_cache=mode, epochs=2)
        for name, mode in (("online", "off"), ("first", "exact"), ("again", "exact"))
    )
    assert same(first, online) and same(again, online) and again.teacher_passes == 0 < first.teacher_passes
    assert first.teacher_cache["views"] == 8 and online.images_seen == 2 * 2 * 96
    one = run(tmp_path / "one", "kd", views, epochs=2)
    assert one.teacher_cache["views"] == 4 and one.teacher_passes > 0  # of another file


def test_too_many_views_to_keep_are_told(tmp_path, kept):
    found = run(tmp_path / "run", "crld", epochs=1, teacher_cache_gib=0.01)
    assert "more than train.teacher_cache_gib; data.augment.views=16" in found.teacher_cache["why"]


def test_an_interrupted_training_goes_on_with_it(tmp_path, kept, monkeypatch):
    online = run(tmp_path / "online", teacher_cache="off")
    monkeypatch.setattr(engine, "CHECK_EVERY", 1)
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    stops, parts = [], None

    def stop_at_every_second_step(step, steps, facts):
        if step % 2 == 0 and step not in stops:
            stops.append(step)
            raise KeyboardInterrupt

    while parts is None:
        try:
            parts = run(tmp_path / "parts", tell=stop_at_every_second_step)
        except KeyboardInterrupt:
            continue
    assert stops == [2, 4, 6, 8] and same(parts, online)
    assert parts.teacher_cache["hits"] + parts.teacher_cache["misses"] >= 3 * 96
    assert parts.teacher_passes == parts.teacher_cache["misses"]


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("reviewkd", r"reviewkd reads the teacher's stages\(pre\)"),
        ("sskd", "sskd makes images of its own"),
        (["kd", "self-guidance"], "self-guidance makes images of its own"),
        (["kd", "fitnets"], "fitnets reads the teacher's stages"),
    ],
)
def test_methods_that_need_more_than_answers_run_the_teacher(tmp_path, kept, method, why):
    found = run(tmp_path / "run", method, epochs=1)
    assert found.teacher_cache["kept"] == "no" and re.search(why, found.teacher_cache["why"])
    assert found.teacher_passes >= 96 and not kept.exists()


def test_answers_about_private_images_are_never_kept(tmp_path, kept):
    found = run(tmp_path / "run", {"pate": {"sigma": 1.0}}, teachers=2, epochs=1)
    assert "secret" in found.teacher_cache["why"] and not kept.exists()


class Swayed(nn.Module):
    def __init__(self, net, by):
        super().__init__()
        self.net, self.by = net, by

    def forward(self, x):
        logits = self.net(x)
        return logits + self.by(logits)


@pytest.mark.parametrize(
    "by",
    [
        lambda logits: logits.mean(0),  # of the other images
        lambda logits: torch.linspace(0, 1e-5, len(logits))[:, None],  # of the place in the batch
        lambda logits: 1e-5 * (torch.arange(len(logits)) > len(logits) - 4)[:, None],  # of a place among the last
        lambda logits: 1e-5 * torch.rand_like(logits),
    ],
)
def test_a_teacher_whose_answers_depend_on_the_batch_is_not_cached(kept, by):
    data = source(96)
    made = distillation(data)
    wrapped = Member(Swayed(made.teachers[0].net, by), data.mean, data.std)
    made = Distillation(made.student.net, wrapped, "kd", made.student.normalize(torch.zeros(2, 1, SIDE, SIDE)))
    loader = Loader(data.train, FLIP, 32, 0)
    found, record = opening.open_cache(made, loader, data.hash, FLIP, Train(**TRAIN), "fp32")
    assert found is None and "depend on the rest of the batch" in record["why"]


class Overwriting(torch.nn.Module):
    """Gives its answers in one place, as a network that runs in a CUDA graph does."""

    def __init__(self, net):
        super().__init__()
        self.net, self.place = net, None

    def forward(self, x):
        with torch.no_grad():
            self.place = self.net(x) if self.place is None else self.place.resize_(len(x), 4).copy_(self.net(x))
        return self.place


def test_answers_that_the_next_call_writes_over_are_copied(kept):
    data = source(96)
    made = distillation(data)
    wrapped = Member(Overwriting(made.teachers[0].net), data.mean, data.std)
    made = Distillation(made.student.net, wrapped, "kd", made.student.normalize(torch.zeros(2, 1, 28, 28)))
    loader = Loader(data.train, FLIP, 32, 0)
    found = [
        opening.open_cache(made, loader, data.hash, FLIP, Train(**TRAIN, compile=mode), "fp32")[0]
        for mode in ("off", "reduce-overhead")
    ]
    assert found[0] is None and found[1] is not None
    with torch.no_grad():
        expected = wrapped.net.net(wrapped.input(loader.batch_at(0).x))
    assert torch.equal(found[1].answers(0, loader.batch_at(0).x)[0].logits, expected)


def opened(data=None, augment=FLIP, precision="fp32", change=lambda made: None, method="kd", loader=None, **options):
    data = data or source(96)
    made = distillation(data, method)
    change(made)
    loader = loader or Loader(data.train, augment, 32, 0)
    return opening.open_cache(made, loader, data.hash, augment, Train(**{**TRAIN, **options}), precision)[0]


def names(found):
    return [each.answers.path.name for each in found.kept]


@torch.no_grad()
def one_weight(made):
    next(made.teacher.parameters()).view(-1)[0] += 1e-3


def other_code(made):
    net, forward = made.teacher.net, type(made.teacher.net).forward
    net.forward = lambda x: forward(net, x) * (1 + 2**-20)


CHANGES = {
    "a weight": {"change": one_weight},
    "what the layers do": {"change": other_code},
    "the normalisation": {"data": replace(source(96), std=(0.31,))},
    "the input's size": {"change": lambda made: setattr(made.teacher, "size", 32)},
    "the images": {"data": replace(source(96), hash="other")},
    "the augmentation": {"augment": Augment(flip=True, crop=1)},
    "the number of views": {"augment": Augment(flip=True, crop=1, views=2)},
    "the precision": {"precision": "bf16"},
    "what is stored": {"method": "rkd"},
    "how it is stored": {"teacher_cache": "fp16"},
}


def test_its_name_changes_with_everything_that_decides_the_answers(kept, monkeypatch):
    reference = names(opened())
    assert names(opened()) == reference
    assert names(opened(change=lambda made: made.student.net.fc.weight.data.add_(1))) == reference
    found = {what: names(opened(**change)) for what, change in CHANGES.items()}
    with torch.backends.mkldnn.flags(enabled=False):
        found["the library that computes"] = names(opened())
    monkeypatch.setattr(torch, "__version__", "0.0")
    found["the version of PyTorch"] = names(opened())
    assert len({*map(tuple, found.values()), tuple(reference)}) == len(found) + 1, found


def test_a_batch_that_is_computed_in_another_way_has_another_file(kept):
    data = source(96)
    by_size = {size: names(opened(loader=Loader(data.train, FLIP, size, 0))) for size in (2, 24, 32, 48)}
    teacher = distillation(data).teacher.eval()
    x = Loader(data.train, FLIP, 96, 0).make(np.arange(96))
    with torch.no_grad():
        bits = {size: torch.cat([teacher(part).logits for part in x.split(size)]) for size in by_size}
    for size, name in by_size.items():
        assert (name == by_size[32]) == torch.equal(bits[size], bits[32])


def test_half_the_bytes_and_the_error_that_is_stated(tmp_path, kept):
    exact, half = opened(), opened(teacher_cache="fp16")
    x = exact.loader.batch_at(0).x
    answers, rounded = exact.answers(0, x)[0].logits, half.answers(0, x)[0].logits
    assert rounded.dtype == torch.float32 and not torch.equal(answers, rounded)
    assert ((answers - rounded).abs() <= answers.abs() * 2**-11 + 2**-25).all()
    assert torch.equal(half.answers(0, x)[0].logits, rounded) and half.hits == 32
    assert sum(half.kept[0].widths) * 2 == sum(exact.kept[0].widths)
    runs = [run(tmp_path / name, teacher_cache="fp16") for name in ("first", "again")]
    assert same(*runs) and runs[1].teacher_passes == 0


@pytest.mark.parametrize("views", [0, 3])
def test_what_is_missing_is_computed_once_and_in_whole_batches(kept, views):
    data, augment = source(96), Augment(crop=1, views=views)
    made = distillation(data)
    loader = Loader(data.train, augment, 32, 0)
    found = opening.open_cache(made, loader, data.hash, augment, Train(**TRAIN), "fp32")[0]
    sizes, shown = [], []
    teach = found.kept[0].teach
    make = loader.make
    loader.make = lambda keys: (shown.append(keys), make(keys))[1]
    found.kept[0].teach = lambda x: (sizes.append(len(x)), teach(x))[1]
    met = set()
    teacher = made.teacher
    for step in range(12):
        batch = loader.batch_at(step)
        met |= set(loader.keys(step).tolist())
        with torch.no_grad():
            expected = teacher(batch.x).logits
        assert torch.equal(found.answers(step, batch.x)[0].logits, expected)
    assert set(sizes) == {32} and found.misses == 32 * len(sizes) == made.teacher_passes
    assert len(met) <= found.misses < len(met) + 4 * 32  # one batch an epoch may be filled up
    assert len(shown) >= 3 and found.hits + found.misses >= 12 * 32


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
import test_cache
from kdcompress.training import engine
engine.CHECK_EVERY, engine.CHECKPOINT_SECONDS = 1, 0.0
def tell(step, steps, facts):
    print(step, flush=True)
result = test_cache.run(Path(sys.argv[1]), tell=tell, epochs=int(sys.argv[2]))
print("passes", result.teacher_passes, flush=True)
"""


def child(folder, epochs):
    code = CHILD.format(path=[p for p in sys.path if p])
    return Forked(code, folder, epochs)


def test_a_killed_training_leaves_nothing_that_is_wrong(tmp_path, kept):
    killed = child(tmp_path / "killed", 50)
    assert any(line.strip() == "4" for line in killed.stdout)
    killed.kill()
    assert killed.ended()[0] == -signal.SIGKILL
    online = run(tmp_path / "online", teacher_cache="off")
    after = run(tmp_path / "after")
    assert same(after, online) and after.teacher_cache["hits"] > 3 * 96 - after.teacher_passes > 0
    assert after.teacher_passes < 200 and len(list(kept.glob("*.answers"))) == 1
    fresh = run(tmp_path / "fresh", augment=Augment())  # nothing to read
    assert fresh.teacher_passes >= 96


def test_two_trainings_fill_one_file_at_once(tmp_path, kept):
    both = [child(tmp_path / name, 3) for name in ("one", "two")]
    found = [process.ended() for process in both]
    assert [status for status, _, _ in found] == [0, 0], found
    passes = [int(output.split()[-1]) for _, output, _ in found]
    online = run(tmp_path / "online", teacher_cache="off")
    after = run(tmp_path / "after")
    assert same(after, online) and after.teacher_passes == 0
    assert len(list(kept.glob("*.answers"))) == 1 and all(96 < n <= 192 + 62 or n < 192 for n in passes)


def test_two_processes_share_what_each_has_marked(kept):
    one, two = opened(), opened()
    x = one.loader.batch_at(0).x
    one.answers(0, x)
    assert two.kept[0].answers.known(one.loader.keys(0)).sum() == 0  # not on the disk yet
    one.flush()
    two.answers(0, x)
    assert two.hits == 32 and two.misses == 0


def test_the_longest_unused_answers_make_room(tmp_path, kept, monkeypatch):
    sizes = {}
    for age, change in enumerate((one_weight, other_code, lambda made: None)):
        found = opened(change=change)
        for step in range(6):
            found.answers(step, found.loader.batch_at(step).x)
        found.flush()
        (path,) = {kept / name for name in names(found)} - set(sizes)
        sizes[path] = path.stat().st_blocks * 512
        os.utime(path, (time.time() - 1000 + age,) * 2)
    oldest, middle, newest = sizes
    needed = 96 * 2 * 16 * 2  # of an answer with 4 float32 logits and half of it again
    limit = (sizes[middle] + sizes[newest] + needed) / 2**30
    found = opened(change=lambda made: made.teacher.net.fc.bias.data.add_(1), teacher_cache_gib=limit)
    assert not oldest.exists() and middle.exists() and newest.exists() and found is not None


def test_too_many_views_are_not_kept_and_fewer_views_are(tmp_path, kept, capfd):
    wide = Augment(crop=4, flip=True, cutout=4)
    found = run(tmp_path / "all", augment=wide, epochs=1, teacher_cache_gib=0.001)
    assert "more than train.teacher_cache_gib; data.augment.views=16" in found.teacher_cache["why"]
    assert found.teacher_passes == 96 and not kept.exists()
    few = wide.model_copy(update={"views": 2})
    online = run(tmp_path / "online", augment=few, teacher_cache="off")
    first, again = (run(tmp_path / name, augment=few, teacher_cache_gib=0.001) for name in ("first", "again"))
    assert same(first, online) and same(again, online) and again.teacher_passes == 0
    assert first.teacher_cache["views"] == 2 and again.teacher_cache["known"] > 0.5
    said = " ".join(capfd.readouterr().err.split())
    assert "teacher's answers: 96 x 2 views, 0.0 MB, 0 % known" in said


def filled(**options):
    found = opened(**options)
    for step in range(6):
        found.answers(step, found.loader.batch_at(step).x)
    found.flush()
    return found


@pytest.mark.parametrize("how", ["answers", "checksums", "cut", "cut and lengthened", "cut to nothing", "longer"])
def test_damaged_answers_are_computed_again(kept, how, capfd):
    first = filled()
    answers, path = first.kept[0].answers, first.kept[0].answers.path
    content = bytearray(path.read_bytes())
    if how == "answers":
        content[answers.start :: 7] = bytes(byte ^ 1 for byte in content[answers.start :: 7])
    elif how == "checksums":
        content[: 4 * answers.rows : 3] = b"\x07" * len(content[: 4 * answers.rows : 3])
    elif how == "longer":
        content += b"0"
    else:
        content = content[: answers.start + 100 if how != "cut to nothing" else 0]
    path.write_bytes(content)
    if how == "cut and lengthened":
        os.truncate(path, answers.start + answers.rows * answers.width)
    teacher = distillation(source(96)).teacher.eval()
    capfd.readouterr()
    for _ in range(2):
        again = opened()
        for step in range(6):
            x = again.loader.batch_at(step).x
            with torch.no_grad():
                assert torch.equal(again.answers(step, x)[0].logits, teacher(x).logits)
        again.flush()
        said = capfd.readouterr().err
        assert (again.misses > 0) == ("is damaged" in said or " 0 % known" in said)
    assert again.misses == 0


def test_a_damaged_answer_is_told_of_once_and_not_counted_for_ever(kept, capfd):
    path = filled().kept[0].answers.path
    path.write_bytes(path.read_bytes()[:-200])
    found = opened()
    assert cache.known_share([found.kept[0].answers]) == 0
    assert capfd.readouterr().err.count("is damaged") == 1


def test_answers_are_the_users_alone(tmp_path, kept, capfd):
    before = os.umask(0)
    try:
        path = filled().kept[0].answers.path
    finally:
        os.umask(before)
    assert [place.stat().st_mode & 0o777 for place in (kept, path)] == [0o700, 0o600]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert opened() is None and "it is a link" in capfd.readouterr().err
    path.unlink()
    kept.chmod(0o777)
    assert opened() is None and "anybody may write to the folder" in " ".join(capfd.readouterr().err.split())


def test_only_answers_are_removed_to_make_room(kept):
    path = filled().kept[0].answers.path
    mine = path.with_name("mine.answers")
    mine.write_bytes(bytes(10**6))
    os.utime(mine, (1e9, 1e9))
    opened(teacher_cache_gib=1e-4)
    assert mine.exists()


def test_a_folder_that_cannot_be_written(tmp_path, kept, monkeypatch, capfd):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", str(tmp_path / "file" / "answers"))
    found = run(tmp_path / "run", epochs=1)
    assert "cannot be written" in found.teacher_cache["why"] and found.teacher_passes == 96
    assert capfd.readouterr().err.count("teacher's answers") == 1


def test_a_disk_that_fills_up_in_mid_training(tmp_path, kept, monkeypatch, capfd):
    online = run(tmp_path / "online", teacher_cache="off")
    capfd.readouterr()
    written, put = [], answers.Answers._put

    def full(self, offset, data):
        written.append(offset)
        if len(written) > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(self, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(answers.Answers, "_put", full)
        found = run(tmp_path / "full")
    assert same(found, online) and found.teacher_cache["kept"] == "no longer"
    said = [line for line in capfd.readouterr().err.splitlines() if "no longer kept" in line]
    assert len(said) == 1 and "No space left on device" in said[0]
    assert same(run(tmp_path / "after"), online)


def test_a_full_disk_for_real(tmp_path, kept):
    """A limit on a file's size stands for it: pwrite writes a part, then nothing."""
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path[:0] = {[p for p in sys.path if p]!r}
import torch, test_cache
from kdcompress.models.taps import Taps
from kdcompress.training import keeping
from kdcompress.training.answers import Answers
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
answers = Answers(Path(sys.argv[1]) / "x{answers.SUFFIX}", 1000, 16)
resource.setrlimit(resource.RLIMIT_FSIZE, (answers.start + 100, -1))
found = keeping.Kept(lambda x: x, Taps(torch.zeros(2, 4), [], None), False)
found.answers = answers
found.keep(torch.arange(4).numpy(), torch.ones(4, 16, dtype=torch.uint8))
found.flush()
assert found.answers is answers and answers.known(torch.arange(4).numpy()).all()
found.keep(torch.arange(4, 9).numpy(), torch.ones(5, 16, dtype=torch.uint8))
assert found.answers is None and (answers.sums != 0).sum() == 4
"""
    done = subprocess.run([sys.executable, "-c", code, str(kept)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no longer kept" in done.stderr


def test_own_views_are_different_spread_and_always_the_same():
    data = source(64)
    for augment in (Augment(crop=2, flip=True, views=16), Augment(crop=1, cutout=3, views=16)):
        loader = Loader(data.train, augment, 16, 0)
        assert loader.slots == 16
        index, slot = np.divmod(np.arange(64 * 16), 16)
        views = loader._slots.view(torch.from_numpy(index), torch.from_numpy(slot)).view(64, 16)
        assert all(len(set(row.tolist())) == 16 for row in views)
        assert views.min() >= 0 and views.max() < loader.views.count
        assert len(set(views.flatten().tolist())) > 0.9 * min(loader.views.count, 64)
        other = Loader(data.train, augment, 16, seed=5)
        met = {}
        for step in range(200):
            batch = other.batch_at(step)
            assert torch.equal(other.make(other.keys(step)), batch.x)
            for image, view in zip(batch.index.tolist(), batch.view.tolist()):
                met.setdefault(image, set()).add(view)
        assert all(found <= set(views[image].tolist()) and len(found) > 8 for image, found in met.items())
    assert Loader(data.train, Augment(flip=True, views=16), 16, 0).slots == 2


def test_off_is_also_what_yaml_makes_of_it():
    assert Train(teacher_cache=False).teacher_cache == "off"
    assert Train(teacher_cache="off").deciding() == Train(teacher_cache_gib=1.0).deciding()
    assert Train(teacher_cache="fp16").deciding() != Train().deciding()


def test_a_part_of_the_probabilities_trains_the_same_each_time(tmp_path, kept, capfd):
    exact = run(tmp_path / "exact")
    first, again = (run(tmp_path / name, teacher_cache_top=2) for name in ("first", "again"))
    assert same(first, again) and again.teacher_passes == 0 and not same(first, exact)
    assert len(list(kept.glob("*.answers"))) == 2
    assert first.teacher_cache["bytes"] <= exact.teacher_cache["bytes"]
    (error,) = first.teacher_cache["error"]
    assert first.teacher_cache["top"] == 2 and error["answers"] > 96
    assert all(0 < error[each] < 0.5 for each in ("moved_t1", "moved_t4", "kl_t1", "kl_t4"))
    assert again.teacher_cache["error"][0]["answers"] == 64  # what is looked at when it is opened
    said = " ".join(capfd.readouterr().err.split())
    assert "the 2 largest of 4 probabilities, the rest spread evenly" in said and "% (T = 4) of the probability" in said


def test_the_rest_is_spread_where_there_is_no_room_too(tmp_path, kept):
    first = run(tmp_path / "first", teacher_cache_top=2)
    without = run(tmp_path / "without", teacher_cache_top=2, teacher_cache_gib=1e-9)
    assert same(first, without) and without.teacher_cache["kept"] == "no" and without.teacher_passes == 3 * 96
    assert "more than train.teacher_cache_gib" in without.teacher_cache["why"]


def test_an_interrupted_training_of_a_part_goes_on(tmp_path, kept):
    whole = run(tmp_path / "whole", teacher_cache_top=2)
    for path in kept.iterdir():
        path.unlink()

    def stop_once(step, steps, facts):
        if step == 3 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", tell=stop_once, teacher_cache_top=2)
    assert same(run(tmp_path / "parts", tell=stop_once, teacher_cache_top=2), whole)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"method": "fitnets"}, "fitnets reads the teacher's stages"),
        ({"augment": Augment(mixup=1.0), "method": "function-matching"}, "mixup makes new images at every step"),
        ({"teacher_cache_top": 4}, "no more classes than"),
    ],
)
def test_a_part_that_cannot_be_kept_is_refused(tmp_path, kept, change, why):
    with pytest.raises(UsageError, match="teacher_cache_top") as told:
        run(tmp_path / "run", **{"teacher_cache_top": 2, **change})
    assert why in str(told.value) and not kept.exists()


def test_a_part_decides_and_the_whole_does_not():
    assert "teacher_cache_top" not in Train().deciding() and Train(teacher_cache_top=3).deciding() != Train().deciding()
    with pytest.raises(ValueError, match="`teacher_cache` is off"):
        Train(teacher_cache_top=3, teacher_cache="off")
