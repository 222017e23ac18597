"""What a page is served, and what its result becomes: by hand, without a page or a server."""

import base64
import json

import numpy as np
import pytest

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.bench import onnxruntime_web, timing
from kdcompress.bench.browser import results
from kdcompress.bench.browser.files import POOL_BYTES, served
from kdcompress.bench.browser.protocol import COMPARED, Asked, PostedResult
from kdcompress.bench.devices import Request

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0"


@pytest.fixture
def asked(tmp_path):
    """Of an artefact with three logits an image, and of another in batches of two."""
    artifacts, expected = {}, {}
    for label, batch in (("one", None), ("two", 2)):
        (tmp_path / label).write_bytes(label.encode())
        spec = InputSpec(4, 4, 1, (0.5,), (0.5,), tuple("abc"), batch=batch)
        artifacts[label] = Artifact.of(tmp_path / label, "onnx", "fp32", spec)
        expected[label] = (np.arange(3 * COMPARED, dtype=np.float32).reshape(COMPARED, 3),)
    request = Request(artifacts, IMAGES, lambda *_: None, threads=2, effort="rapid", baseline="one")
    return Asked(request, "wasm", expected)


def posted(asked, rounds=64, **changes):
    subjects = {
        label: {
            "load_ms": 9.0,
            "first_call_ms": 3.0,
            "samples_ms": [0.5 + i / 1000 for i in range(rounds)],
            "outputs": [base64.b64encode(output.tobytes()).decode() for output in outputs],
        }
        for label, outputs in asked.expected.items()
    }
    common = {"version": "1.30.0", "threads": 1, "resolution_us": 5.0, "overhead_us": 0.1, "wall_s": 1.0}
    device = {"model": "Pixel 8", "isolated": True}
    return PostedResult.model_validate({**common, "device": device, "subjects": subjects, **changes})


def test_a_result_is_a_session_like_any_other(asked):
    result = posted(asked)
    results.check(result, asked)
    session = results.session(result, asked, AGENT)
    assert session.device == "browser:Firefox 141" and session.before["cpu"] == "Pixel 8"
    one, two = session.records.values()
    assert one.n == 64 and one.batch == 1 and two.batch == 2 and two.ratio["median"] == pytest.approx(0.5)
    assert session.parity["one"]["passed"] and session.parity["two"]["max_abs"] == 0
    assert session.notes == ["Measured with 1 of the 2 threads asked for."]


def test_means_of_several_queries_have_no_percentiles(asked):
    result = posted(asked)
    result.subjects["one"].queries_a_sample = 2
    session = results.session(result, asked, AGENT)
    assert session.records["one"].p90_ms is None and session.records["two"].p90_ms is not None
    assert "the mean of several in a row (one: 2)" in session.notes[0]


def test_what_no_measurement_gives(asked):
    with pytest.raises(ValueError, match="one: 63 samples of 63 rounds; at least 64"):
        results.check(posted(asked, 63), asked)
    with pytest.raises(ValueError, match="queries of 0.1 s in 0.0 s"):
        results.check(posted(asked, 128, wall_s=1e-3), asked)
    other = posted(asked)
    other.subjects["two"].outputs = other.subjects["two"].outputs * 2
    with pytest.raises(ValueError, match=r"two: outputs of another size than \[32, 3\]"):
        results.check(other, asked)
    with pytest.raises(ValueError, match=r"results of \['one'\], not \['one', 'two'\]"):
        results.check(other.model_copy(update={"subjects": {"one": other.subjects["one"]}}), asked)


def test_what_is_served_is_what_queries_are_made_of(asked, monkeypatch):
    monkeypatch.setattr(onnxruntime_web, "files", lambda provider: {"ort.mjs": provider.encode()})
    files = served(asked)
    job = json.loads(files["job.json"])
    assert files["model-1.bin"] == b"two" and files["ort/ort.mjs"] == b"wasm"
    assert {"", "page.js", "page.css", "worker.js", "report.css", "images.bin"} < set(files)
    assert (job["queries"], job["seconds"]) == timing.EFFORTS["rapid"] and job["compared"] == COMPARED
    images = np.frombuffer(files["images.bin"], np.uint8).reshape(-1, *job["image"])
    drawn = np.random.default_rng(0).integers(len(IMAGES), size=(timing.POOL, 2))
    assert job["subjects"][0]["outputs"] == [{"name": "logits", "size": 3}]
    assert np.array_equal(images[:COMPARED], IMAGES[:COMPARED])
    assert np.array_equal(images[np.array(job["subjects"][1]["pool"])], IMAGES[drawn])


def test_queries_that_would_be_too_big_are_fewer(asked, monkeypatch):
    monkeypatch.setattr(onnxruntime_web, "files", lambda provider: {})
    monkeypatch.setattr("kdcompress.bench.browser.files.POOL_BYTES", POOL_BYTES // 2**17)  # of 64 bytes an image
    one, two = json.loads(served(asked)["job.json"])["subjects"]
    assert len(one["pool"]) == 8 and len(two["pool"]) == 4
