import gc
import json
from dataclasses import replace

import numpy as np
import pytest

from kdcompress.artifact import InputSpec
from kdcompress.bench import timing
from kdcompress.bench.advice import advice
from kdcompress.bench.machine import machine
from kdcompress.bench.record import Interrupted
from kdcompress.bench.timing import Subject, harness_overhead_us, measure
from kdcompress.errors import UsageError

SPEC = InputSpec(4, 4, 1, (0.5,), (0.5,), ("a", "b"), batch=1)
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)


class Clock:
    ns = 0

    def read(self):
        self.ns += 1000
        return self.ns


CLOCK = Clock()


class Busy:
    """A model that works for some milliseconds; ``calls`` holds who was called, in order."""

    name = "busy"

    def __init__(self, ms=0.2, calls=None, label="", fails_at=None, fails_timed=None, loads=True):
        self.ms, self.calls, self.label, self.loads = ms, calls, label, loads
        self.fails_at, self.fails_timed = fails_at, fails_timed  # the call, or the call of those being timed
        self.made, self.open, self.seen, self.collecting = 0, False, [], []

    def __enter__(self):
        if not self.loads:
            raise OSError("no such file")
        self.open = True
        return self

    def infer(self, x):
        assert self.open
        self.made += 1
        self.seen.append(x)
        self.collecting.append(gc.isenabled())
        if self.calls is not None:
            self.calls.append(self.label)
        if self.made == self.fails_at or self.collecting.count(False) == self.fails_timed:
            raise RuntimeError("out of memory")
        CLOCK.ns += round(self.ms * 1e6)
        return (np.zeros((len(x), 2), np.float32),)

    def __exit__(self, *exc):
        self.open = False

    def details(self):
        return {"runtime": "python"}


@pytest.fixture
def quick_effort(monkeypatch):
    monkeypatch.setitem(timing.EFFORTS, "rapid", (64, 0.2))


@pytest.fixture(autouse=True)
def clock(request, monkeypatch):
    """Time passes where a runner says so, and 1 us each time that the clock is read."""
    if "real" in request.node.name or "harness" in request.node.name:
        return
    monkeypatch.setattr(timing, "perf_counter_ns", CLOCK.read)
    monkeypatch.setattr(timing, "perf_counter", lambda: CLOCK.read() / 1e9)
    monkeypatch.setattr(timing, "process_time", lambda: CLOCK.ns / 1e9)


def test_the_efforts_are_mlperf_mobiles():
    assert timing.EFFORTS == {"rapid": (64, 6.0), "quick": (128, 10.0), "normal": (1024, 60.0)}


def test_two_subjects(quick_effort):
    shares = []
    subjects = [Subject("slow", Busy(0.6), SPEC), Subject("fast", Busy(0.2), SPEC)]
    records = measure(subjects, IMAGES, "rapid", progress=lambda share, what: shares.append(share), baseline="slow")
    slow, fast = records["slow"], records["fast"]
    assert slow.n == fast.n >= 64
    assert len(fast.samples_ms) == fast.n
    assert 0.2 <= fast.min_ms <= fast.median_ms <= fast.p90_ms <= fast.p90_early_stopping_ms
    assert slow.median_ms == pytest.approx(0.6, abs=2e-3)
    assert fast.wall_s >= 0.4  # the seconds of the effort, for each of two
    assert fast.first_call_ms >= 0.2 and fast.load_ms >= 0
    assert fast.warmup >= 10
    assert fast.batch == 1 and fast.subjects == 2 and fast.failed is None and fast.capped is None
    assert fast.runtime == {"runtime": "python"}
    assert fast.overhead_us == pytest.approx(1)
    assert fast.peak_rss_mib > 1
    assert slow.ratio is None
    assert fast.ratio["verdict"] == "faster" and fast.ratio["n"] == fast.n
    assert fast.ratio["low"] < fast.ratio["median"] < fast.ratio["high"]
    assert fast.ratio["median"] == pytest.approx(1 / 3, abs=2e-3)
    assert shares == sorted(shares) and shares[-1] == 1
    assert not any(subject.runner.open for subject in subjects)
    json.dumps({name: record.to_json() for name, record in records.items()})


def test_a_turn_is_two_queries_and_rounds_take_everyone_in_varying_order(quick_effort):
    calls = []
    subjects = [Subject(label, Busy(0.1, calls, label), SPEC) for label in "abc"]
    records = measure(subjects, IMAGES, "rapid")
    timed = calls[-6 * records["a"].n :]
    rounds = [timed[i : i + 6] for i in range(0, len(timed), 6)]
    assert all(round[::2] == round[1::2] and sorted(round[::2]) == ["a", "b", "c"] for round in rounds)
    assert len({"".join(round[::2]) for round in rounds}) == 6


def test_inputs_are_seeded_real_images_and_the_same_for_all(quick_effort):
    runs = []
    for _ in range(2):
        a, b = Busy(0.1), Busy(0.1)
        record = measure([Subject("a", a, SPEC), Subject("b", b, SPEC)], IMAGES, "rapid", seed=5)["a"]
        seen = [x.tobytes() for x in a.seen[-2 * record.n :]]
        assert seen == [x.tobytes() for x in b.seen[-2 * record.n :]]
        assert set(seen) <= {image[None].tobytes() for image in IMAGES} and len(set(seen)) > 10
        runs.append(seen[:100])
    assert runs[0] == runs[1]


def test_a_fixed_batch_is_used_and_said(quick_effort):
    runner = Busy(0.1)
    spec = InputSpec(4, 4, 1, (0.5,), (0.5,), ("a", "b"), batch=3, layout="float-nchw")
    record = measure([Subject("a", runner, spec)], IMAGES, "rapid")["a"]
    assert record.batch == 3
    assert runner.seen[0].shape == (3, 1, 4, 4) and runner.seen[0].dtype == np.float32


def test_multi_stream_asks_for_8_images(quick_effort):
    whole, parts = Busy(0.05), Busy(0.05)
    any_batch = replace(SPEC, batch=None)
    subjects = [Subject("whole", whole, any_batch), Subject("parts", parts, replace(SPEC, batch=3))]
    records = measure(subjects, IMAGES, "rapid", scenario="multi-stream", baseline="whole")
    assert {len(x) for x in whole.seen} == {8} and {len(x) for x in parts.seen} == {3}
    query = np.concatenate(parts.seen[-3:])  # 3 + 3 + 2, the last image twice
    assert query[:8].tobytes() == whole.seen[-1].tobytes() and query[8].tobytes() == query[7].tobytes()
    assert all(r.batch == 8 and r.scenario == "multi-stream" for r in records.values())
    assert records["parts"].ratio["verdict"] == "slower" and records["parts"].ratio["median"] == pytest.approx(
        3, rel=0.02
    )


class Batched(Busy):
    """Takes 1 ms for up to 8 images and 3 ms for more; no more than 32."""

    def infer(self, x):
        if len(x) > 32:
            raise MemoryError("too many")
        self.ms = 1 if len(x) <= 8 else 3
        return super().infer(x)


def test_offline_finds_the_batch_with_the_highest_throughput(quick_effort):
    subjects = [Subject("any", Batched(), replace(SPEC, batch=None)), Subject("one", Busy(1), SPEC)]
    records = measure(subjects, IMAGES, "rapid", scenario="offline", baseline="one")
    found = records["any"]
    assert found.batch == 32 and set(found.batches) == {1, 2, 4, 8, 16, 32} and found.failed is None
    assert found.batches[8] > 6 * found.batches[1]
    assert records["one"].batch == 1 and records["one"].batches == {}
    assert found.images_per_second == pytest.approx(32 / 3e-3, rel=1e-3)
    assert found.ratio["verdict"] == "faster" and found.ratio["median"] == pytest.approx(3 / 32, rel=1e-3)
    assert any("host-bound" in line for line in advice(records, machine(), machine()))


class Stops(Busy):
    """Ctrl-C while queries are recorded."""

    def infer(self, x):
        if self.collecting.count(False) == 60:
            raise KeyboardInterrupt
        return super().infer(x)


def test_an_interrupted_measurement_keeps_what_was_measured(quick_effort):
    subjects = [Subject("a", Stops(0.1), SPEC), Subject("b", Busy(0.1), SPEC)]
    with pytest.raises(Interrupted) as stop:
        measure(subjects, IMAGES, "rapid", baseline="b")
    a, b = stop.value.records["a"], stop.value.records["b"]
    assert a.n == 30 and b.n in (30, 31) and len(a.samples_ms) == 30 and "interrupted" in a.capped
    assert a.ratio["n"] == 30 and a.median_ms > 0 and gc.isenabled()
    assert not any(subject.runner.open for subject in subjects)


def test_cores_used_are_those_of_the_runner(quick_effort):
    assert measure([Subject("a", Busy(0.2), SPEC)], IMAGES, "rapid")["a"].cores_used == 1.0  # as the clocks say


def test_a_subject_that_fails_in_the_middle_stops_no_other(quick_effort):
    subjects = [Subject("broken", Busy(0.1, fails_timed=42), SPEC), Subject("good", Busy(0.1), SPEC)]
    records = measure(subjects, IMAGES, "rapid", baseline="good")
    assert records["broken"].failed == "query 21: RuntimeError: out of memory" and records["broken"].n == 20
    assert records["good"].failed is None and records["good"].n >= 64
    assert records["broken"].ratio is None


@pytest.mark.parametrize("broken, when", [(Busy(loads=False), "loading"), (Busy(fails_at=1), "first call")])
def test_a_subject_that_never_runs_is_reported(quick_effort, broken, when):
    records = measure([Subject("broken", broken, SPEC), Subject("good", Busy(0.1), SPEC)], IMAGES, "rapid")
    assert records["broken"].failed.startswith(when) and records["broken"].n == 0
    assert records["broken"].median_ms is None
    assert records["good"].n >= 64


def test_garbage_collection_is_off_while_timing_and_back_afterwards(quick_effort):
    runner = Busy(0.1)
    record = measure([Subject("a", runner, SPEC)], IMAGES, "rapid")["a"]
    assert not any(runner.collecting[-2 * record.n :])
    assert gc.isenabled()


def test_a_very_slow_subject_is_capped_alone_and_says_so(monkeypatch):
    monkeypatch.setitem(timing.EFFORTS, "rapid", (64, 0.04))
    records = measure([Subject("slow", Busy(8), SPEC), Subject("fast", Busy(0.1), SPEC)], IMAGES, "rapid")
    assert records["slow"].n < 64 and f"{records['slow'].n} of 64" in records["slow"].capped
    assert records["slow"].median_ms >= 8 and records["slow"].p90_ms is None
    assert records["fast"].n >= 64 and records["fast"].capped is None


def test_a_very_fast_subject_is_capped_by_its_queries(monkeypatch, quick_effort):
    monkeypatch.setattr(timing, "MOST", 100)
    record = measure([Subject("fast", Busy(0), SPEC)], IMAGES, "rapid")["fast"]
    assert record.n == 100 and "100 queries" in record.capped


def test_wrong_requests():
    subject = Subject("a", Busy(), SPEC)
    with pytest.raises(UsageError, match="rapid"):
        measure([subject], IMAGES, "fast")
    with pytest.raises(UsageError, match="same name"):
        measure([subject, subject], IMAGES, "rapid")
    with pytest.raises(UsageError, match="no file named 'b'"):
        measure([subject], IMAGES, "rapid", baseline="b")
    with pytest.raises(UsageError, match="did you mean 'offline'"):
        measure([subject], IMAGES, "rapid", scenario="ofline")
    with pytest.raises(UsageError, match="no images"):
        measure([subject], IMAGES[:0], "rapid")


def test_the_harness_does_nothing_of_its_own_between_two_looks_at_the_clock():
    assert harness_overhead_us() < 100  # 0.1 where nothing else runs; asking the system for anything takes more


def test_a_real_onnx_session(quick_effort, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    kind = onnx.TensorProto
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["image"], ["float"], to=kind.FLOAT),
            onnx.helper.make_node("Flatten", ["float"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        "tiny",
        [onnx.helper.make_tensor_value_info("image", kind.UINT8, ["N", 4, 4, 1])],
        [onnx.helper.make_tensor_value_info("logits", kind.FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(np.ones((16, 2), np.float32), "weight")],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "tiny.onnx")

    class Session(Busy):
        def __enter__(self):
            self.session = onnxruntime.InferenceSession(tmp_path / "tiny.onnx", providers=["CPUExecutionProvider"])
            return self

        def infer(self, x):
            return tuple(self.session.run(None, {"image": x}))

    record = measure([Subject("tiny", Session(), SPEC)], IMAGES, "rapid")["tiny"]
    assert record.failed is None and record.n >= 64 and 0 < record.median_ms <= record.p90_ms


def test_advice_on_a_real_measurement_is_a_list_of_sentences(quick_effort):
    before = machine()
    records = measure([Subject("a", Busy(0.1), SPEC)], IMAGES, "rapid")
    assert all(isinstance(line, str) and line.endswith(".") for line in advice(records, before, machine()))
