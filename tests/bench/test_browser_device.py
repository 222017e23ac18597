"""The page that measures, in a real browser, and what it posts, by hand."""

from __future__ import annotations

import base64
import copy
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from importlib import resources

import numpy as np
import psutil
import pytest
from hostile import spoilt

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.bench import on_browser, onnxruntime_web, timing
from kdcompress.bench.browser.address import own_address, parse_address
from kdcompress.bench.browser.measurement import prepared
from kdcompress.bench.browser.protocol import browser_name
from kdcompress.bench.browser.server import serving
from kdcompress.bench.devices import Request, parse_device
from kdcompress.bench.record import Record, summarise
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export.formats import ExportJob, build, open_runner, target
from kdcompress.report import latency
from kdcompress.runner import infer_all
from kdcompress.tasks import tasks

IMAGES = np.random.default_rng(0).integers(0, 256, (96, 16, 16, 1), dtype=np.uint8)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120_000  # ms that a step in the browser may take on a busy machine


def network(path, seed=0, layout="uint8-nhwc", batch=None):
    """Two convolutions and a classifier, with a normalisation before them."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    rng = np.random.default_rng(seed)
    sizes = {"w1": (16, 1, 3, 3), "w2": (32, 16, 3, 3), "w3": (4, 32)}
    weights = {name: rng.normal(0, 0.3, size).astype(np.float32) for name, size in sizes.items()}
    weights |= {"scale": np.float32(1 / 255 if layout == "uint8-nhwc" else 1), "mean": np.float32(0.5)}
    pixels = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
    ]
    float_in = layout == "float-nchw"
    nodes = [
        *([] if float_in else pixels),
        helper.make_node("Mul", ["image" if float_in else "planes", "scale"], ["unit"]),
        helper.make_node("Sub", ["unit", "mean"], ["x0"]),
        helper.make_node("Conv", ["x0", "w1"], ["x1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x1"], ["x2"]),
        helper.make_node("Conv", ["x2", "w2"], ["x3"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["x3"], ["x4"]),
        helper.make_node("GlobalAveragePool", ["x4"], ["x5"]),
        helper.make_node("Flatten", ["x5"], ["x6"]),
        helper.make_node("Gemm", ["x6", "w3"], ["logits"], transB=1),
    ]
    for node in nodes:
        node.name = f"make_{node.output[0]}"
    n = batch or "batch"
    image = (TensorProto.FLOAT, [n, 1, 16, 16]) if float_in else (TensorProto.UINT8, [n, 16, 16, 1])
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", *image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [n, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    save(model, path)
    spec = InputSpec(16, 16, 1, (0.5,), (1.0,), tuple("abcd"), layout=layout, batch=batch)
    artifact = Artifact.of(path, "onnx", "fp32", spec)
    path.with_name(path.name + ".json").write_text(json.dumps(artifact.to_json()))
    return artifact


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """One net as fp32, as int8 and on float pixels in batches of two, and another net."""
    folder = tmp_path_factory.mktemp("artifacts")
    made = {
        "fp32": network(folder / "fp32.onnx"),
        "planar": network(folder / "planar.onnx", layout="float-nchw", batch=2),
        "other": network(folder / "other.onnx", seed=1),
    }
    made["int8"] = build(ExportJob(None, made["fp32"], IMAGES[:64], folder, "student"), target("browser-wasm"))
    return made


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window, and without the network."""
    if not CHROMIUM:
        pytest.skip("no Chromium (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        own = ("127.0.0.1", own_address(socket.AF_INET))
        rules = " , ".join(["MAP * ~NOTFOUND", *(f"EXCLUDE {address}" for address in own)])
        options = ["--no-sandbox", f"--host-resolver-rules={rules}"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    with chromium.new_context(viewport={"width": 390, "height": 844}) as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        yield page


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    for name, content in onnxruntime_web.files().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def short(unpacked, monkeypatch):
    monkeypatch.setenv("ONNXRUNTIME_WEB", str(unpacked))  # unpacking takes a second
    monkeypatch.setitem(timing.EFFORTS, "rapid", (64, 0.3))


def request_of(artifacts, *names, **changes):
    chosen = {name: artifacts[name] for name in names}
    return Request(chosen, IMAGES, changes.pop("open", open_runner), effort="rapid", baseline=names[0], **changes)


class Run:
    """The device at work in a thread: its address, and in the end its session or its error."""

    def __init__(self, request, address, capsys):
        self.session = self.error = None
        self.capsys, self.said, self.steps = capsys, "", []
        self.thread = threading.Thread(target=self._run, args=(request, address))
        self.thread.start()
        self.url = self.wait_for(r"http://\S+")

    def _run(self, request, address):
        device, address = parse_device(f"browser:{address}")
        try:
            self.session = device(request, address, lambda share, what: self.steps.append((share, what)))
        except Exception as error:
            self.error = error

    def wait_for(self, pattern, seconds=600):
        """What the terminal shows of this, once it does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            alive = self.thread.is_alive()
            self.said += self.capsys.readouterr().err
            if found := re.search(pattern, self.said):
                return found[0]
            if not alive:
                break
            time.sleep(0.02)
        raise AssertionError(f"not said: {pattern}; said: {self.said}; {self.error}")

    def ended(self, seconds=600):
        self.thread.join(seconds)
        assert not self.thread.is_alive()
        return self.session


@pytest.fixture
def serve(capsys, monkeypatch):
    runs = []

    def start(request, address=""):
        runs.append(Run(request, address, capsys))
        return runs[-1]

    yield start
    monkeypatch.setattr("kdcompress.bench.browser.measurement.OPEN_S", 0)
    monkeypatch.setattr("kdcompress.bench.browser.measurement.SILENCE_S", 0)
    for run in runs:
        run.ended()
        assert not [thread for thread in threading.enumerate() if "serve_forever" in thread.name]
        with pytest.raises(OSError):
            post(run.url, "hello", {})


def post(url, path, body, **headers):
    """(status, answer) of what a page may post."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(url + path, content, {"User-Agent": "Firefox/141.0", **headers})
    return answered(asked)


def answered(asked):
    try:
        with urllib.request.urlopen(asked, timeout=300) as response:
            return response.status, json.loads(response.read() or b"{}")
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if error.headers["Content-Type"] == "application/json" else text.decode()


# In the browser


def test_what_a_browser_measures(serve, artifacts, page, monkeypatch):
    monkeypatch.setitem(timing.EFFORTS, "rapid", (64, 1.2))  # longer than the seconds between two reports of progress
    run = serve(request_of(artifacts, "fp32", "int8", "planar"))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(run.url)
    page.click("#start")
    page.wait_for_selector("#doing:has-text('Measuring')")
    page.wait_for_selector("#outcome", state="visible")
    session = run.ended()
    assert not page.problems and all(url.startswith(run.url) for url in asked if not url.startswith("data:"))

    assert re.fullmatch(r"browser:Chrome \d+", session.device)
    assert "Chrome" in session.before["user_agent"] and session.before["cross_origin_isolated"]
    assert session.before["packages"]["onnxruntime-web"] == onnxruntime_web.VERSION
    n = {record.n for record in session.records.values()}
    assert len(n) == 1 and n.pop() >= 64
    for name, record in session.records.items():
        assert not record.failed and record.subjects == 3 and record.wall_s >= 3.6 and record.warmup >= 1
        assert record.load_ms > 0 and record.first_call_ms > 0 and record.overhead_us < 50
        assert record.min_ms * record.runtime["queries_a_sample"] >= record.runtime["clock_resolution_us"] / 1e3
        assert record.runtime["threads"] == 1 and record.runtime["clock_resolution_us"] < 50
        assert session.parity[name]["passed"] and session.parity[name]["n"] == 32
    assert session.parity["fp32"]["max_abs"] < 1e-5 and session.parity["planar"]["max_abs"] < 1e-5
    assert session.records["fp32"].batch == 1 and session.records["planar"].batch == 2
    assert session.records["fp32"].ratio is None and session.records["planar"].ratio["n"] == session.records["fp32"].n
    assert run.steps[-1] == (1.0, "measured") and any("round" in what for _, what in run.steps)

    shown = page.inner_text("#outcome")
    assert "You may close this page" in shown and shown.count("as on the computer") == 3
    assert f"{session.records['fp32'].median_ms:.3f}" in shown or session.records["fp32"].median_ms >= 10
    assert page.evaluate("document.activeElement.id") == "outcome" and page.is_hidden("#seen")


def detector(path):
    """Two boxes, whatever the image, and three scores each."""
    from onnx import TensorProto, helper, numpy_helper, save

    values = {
        "boxes0": np.array([[[1, 2, 9, 12], [6, 5, 15, 15]]], np.float32),
        "scores0": np.array([[[0.9, 0.1, 0.0], [0.0, 0.2, 0.7]]], np.float32),
        "axes": np.array([1, 2], np.int64),
        "none": np.float32(0),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Squeeze", ["float", "last"], ["planes"]),
        helper.make_node("ReduceMean", ["planes", "axes"], ["mean"]),
        helper.make_node("Mul", ["mean", "none"], ["nothing"]),
        helper.make_node("Add", ["nothing", "boxes0"], ["boxes"]),
        helper.make_node("Add", ["nothing", "scores0"], ["scores"]),
    ]
    values["last"] = np.array([3], np.int64)
    shapes = {"boxes": (2, 4), "scores": (2, 3)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 16, 16, 1])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *s]) for n, s in shapes.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    outputs = tasks["detection"].outputs(tuple("abc"), list(shapes.values()))
    spec = InputSpec(16, 16, 1, (0.5,), (1.0,), tuple("abc"), outputs=outputs, task="detection")
    return Artifact.of(path, "onnx", "fp32", spec)


def test_the_page_shows_what_a_detector_found(serve, page, tmp_path):
    run = serve(request_of({"finds": detector(tmp_path / "detector.onnx")}, "finds"))
    page.goto(run.url)
    page.click("#start")
    page.wait_for_selector("#outcome", state="visible")
    session = run.ended()
    assert not page.problems and session.parity["finds"]["passed"]
    shown = page.locator("#seen img")
    assert shown.count() == 3 and page.locator("#seen figcaption").first.inner_text() == "1 a, 1 c"
    assert shown.evaluate_all("images => images.every(each => each.complete && each.naturalWidth >= 192)")
    for width in (320, 390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width


def test_the_page_before_it_starts(serve, artifacts, page):
    run = serve(request_of(artifacts, "fp32", "int8"))
    page.goto(run.url)
    page.wait_for_selector("#start:enabled")
    for width in (320, 390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for selector in ("#intro", "#facts dt", "#advice", "#start"):
            assert contrast(page, selector) >= 4.5, (scheme, selector)
    assert page.evaluate("document.getElementById('bar').labels[0].getAttribute('aria-live')") == "polite"
    assert page.evaluate("document.documentElement.lang") == "en"
    assert "Chrome" in page.inner_text("#facts")


def test_the_report_fits_a_phone_and_says_which_browser_it_was(page, tmp_path):
    record = Record("student-x86-vnni.onnx", "rapid", 1)
    summarise(record, np.linspace(1, 2, 200))
    ratio = {"median": 0.5, "low": 0.49, "high": 0.51, "verdict": "faster", "n": 200}
    records = {"student.onnx": record.to_json(), "student-x86-vnni.onnx": {**record.to_json(), "ratio": ratio}}
    document = {
        **dict.fromkeys(("kdcompress", "created", "device", "inputs", "command"), "x"),
        **{"scenario": "single-stream", "threads": 1, "effort": "rapid", "baseline": "student.onnx"},
        **{"records": records, "machine": {"user_agent": "Mozilla/5.0 (Phone)", "clock_resolution_us": 5}},
    }
    page.goto(latency.export(document, tmp_path / "bench.html").as_uri())
    for width in (320, 390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        table = page.locator("table.stack")
        assert table.evaluate("e => e.scrollWidth <= e.parentElement.clientWidth"), width
    assert "faster" in table.inner_text() and "0.500 [0.490, 0.510]" in table.inner_text()
    shown = page.inner_text("main")
    assert "Mozilla/5.0 (Phone)" in shown and "in steps of 5 us" in shown and "none of interest" not in shown


def contrast(page, selector):
    """WCAG's contrast of an element's text to what is behind it."""
    colours = page.eval_on_selector(
        selector,
        """e => { let b = e; const back = x => getComputedStyle(x).backgroundColor
        while (back(b) === 'rgba(0, 0, 0, 0)') b = b.parentElement
        return [getComputedStyle(e).color, back(b)].map(c => c.match(/[0-9.]+/g).slice(0, 3).map(Number)) }""",
    )
    light = []
    for colour in colours:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_an_address_that_browsers_do_not_isolate(serve, artifacts, page):
    """A coarse clock: several queries a sample, and no percentiles of what is no single query."""
    if own_address(socket.AF_INET).startswith("127.") or not own_address(socket.AF_INET)[0].isdigit():
        pytest.skip("this machine has no address but its own")
    run = serve(request_of(artifacts, "fp32", threads=2), "0.0.0.0")
    assert "Whoever has this address" in run.said or run.wait_for("Whoever has this address")
    page.goto(run.url)
    page.click("#start")
    page.wait_for_selector("#outcome", state="visible")
    session = run.ended()
    record = session.records["fp32"]
    assert not session.before["cross_origin_isolated"]
    assert record.runtime["threads"] == 1 and record.runtime["threads_asked"] == 2
    assert record.runtime["clock_resolution_us"] >= 50 and record.median_ms > 0
    notes = " ".join(session.notes)
    assert "not cross-origin isolated" in notes and "1 of the 2 threads" in notes
    assert "coarse" in page.inner_text("#facts")
    several = record.runtime["queries_a_sample"] > 1  # on a busy machine one may last long enough
    assert several == ("mean of several" in notes) == ("mean of several" in page.inner_text("#notes"))
    assert several == (record.p90_ms is None) == (record.p90_early_stopping_ms is None)


def test_threads_where_the_page_is_isolated(serve, artifacts, page):
    run = serve(request_of(artifacts, "fp32", threads=2))
    page.goto(run.url)
    page.click("#start")
    page.wait_for_selector("#outcome", state="visible")
    session = run.ended()
    assert session.records["fp32"].runtime["threads"] == 2 and session.parity["fp32"]["passed"]


def test_other_outputs_than_here_are_said(serve, artifacts, page):
    def another(artifact, threads=1):
        return open_runner(artifacts["other"], threads=threads)

    run = serve(request_of(artifacts, "fp32", open=another))
    page.goto(run.url)
    page.click("#start")
    page.wait_for_selector("#outcome", state="visible")
    session = run.ended()
    assert not session.parity["fp32"]["passed"] and session.records["fp32"].n >= 64
    assert "outputs differ by" in session.parity["fp32"]["why"]
    assert "not as on the computer" in page.inner_text("#rows")


def test_a_model_that_the_browser_cannot_load(serve, artifacts, page, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"this is no model")
    bad = Artifact.of(tmp_path / "bad.onnx", "onnx", "fp32", artifacts["fp32"].input)

    def here(artifact, threads=1):
        return open_runner(artifacts["fp32"], threads=threads)

    run = serve(request_of({**artifacts, "bad": bad}, "bad", "fp32", open=here))
    page.goto(run.url)
    page.click("#start")
    page.wait_for_selector("#outcome", state="visible")
    session = run.ended()
    assert session.records["bad"].failed.startswith("loading: ") and session.records["bad"].n == 0
    assert session.records["fp32"].n >= 64 and session.records["fp32"].ratio is None
    assert "bad" not in session.parity and "failed: loading" in page.inner_text("#tiles")


def test_a_second_page_is_told_and_the_first_goes_on(serve, artifacts, page):
    run = serve(request_of(artifacts, "fp32"))
    page.goto(run.url)
    page.wait_for_selector("#start:enabled")
    first = post(run.url, "claim", {})[1]["page"]
    page.click("#start")
    page.wait_for_selector("#problem:has-text('is measuring')")
    page.reload()
    page.wait_for_selector("#problem:has-text('is measuring')")
    assert post(run.url, "result", {"page": first, **believable(artifacts["fp32"])})[0] == 200
    assert run.ended().records["fp32"].n == 64
    page.click("#start")
    page.wait_for_selector("#problem:has-text('does not answer')")


def test_a_page_that_is_left_may_come_back(serve, artifacts, page, monkeypatch):
    monkeypatch.setitem(timing.EFFORTS, "rapid", (64, 3.0))  # longer than it takes to leave it on a busy machine
    run = serve(request_of(artifacts, "fp32"))
    page.goto(run.url)
    page.click("#start")
    page.wait_for_selector("#run", state="visible")
    page.reload()
    run.wait_for("left in mid-run")
    page.click("#start")
    page.wait_for_selector("#outcome", state="visible")
    assert run.ended().records["fp32"].n >= 64


def test_a_browser_that_dies(serve, artifacts, chromium, monkeypatch):
    monkeypatch.setattr("kdcompress.bench.browser.measurement.SILENCE_S", 3.0)
    monkeypatch.setitem(timing.EFFORTS, "rapid", (64, 60.0))
    run = serve(request_of(artifacts, "fp32"))
    before = set(psutil.Process().children(recursive=True))
    browser = chromium.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page = browser.new_page()
    page.goto(run.url)
    page.click("#start")
    run.wait_for("is measuring")
    for process in set(psutil.Process().children(recursive=True)) - before:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    run.ended()
    assert isinstance(run.error, KDCompressError) and run.error.exit_code == 1
    assert "has sent nothing for 3 s. What it measured is lost" in str(run.error)


def test_ctrl_c_leaves_nothing_running(artifacts, page):
    program = (
        "import sys, numpy as np\n"
        "from kdcompress.bench.devices import Request, parse_device\n"
        "from kdcompress.export.formats import open_runner\n"
        "from kdcompress.pipelines.measure import load_artifact\n"
        "from pathlib import Path\n"
        "device, address = parse_device('browser')\n"
        "artifact = load_artifact(Path(sys.argv[1]))\n"
        "images = np.zeros((8, 16, 16, 1), np.uint8)\n"
        "device(Request({'a': artifact}, images, open_runner, effort='normal'), address, lambda *_: None)\n"
    )
    command = [sys.executable, "-c", program, artifacts["fp32"].path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        url = re.search(r"http://\S+", process.stderr.readline())[0]
        page.goto(url)
        page.click("#start")
        page.wait_for_selector("#doing:has-text('Measuring')")
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=600)[1]
    assert process.returncode in (1, 130, -signal.SIGINT)
    page.wait_for_selector("#problem:has-text('The computer has gone')")
    with pytest.raises(OSError):
        post(url, "hello", {})


def test_a_browser_without_vector_instructions(serve, artifacts, page):
    run = serve(request_of(artifacts, "fp32"))
    page.add_init_script("WebAssembly.validate = () => false")
    page.goto(run.url)
    page.wait_for_selector("#problem:has-text('no WebAssembly SIMD')")
    assert page.is_disabled("#start")
    run.wait_for("cannot measure: This browser has no WebAssembly SIMD")
    assert run.thread.is_alive()  # another browser may


def test_a_clock_that_stands_still(serve, artifacts, page):
    run = serve(request_of(artifacts, "fp32"))

    def stopped(route):
        answer = route.fetch()
        route.fulfill(response=answer, body="performance.now = () => 1\n" + answer.text())

    page.route("**/worker.js", stopped)
    page.goto(run.url)
    page.click("#start")
    page.wait_for_selector("#problem:has-text('stands still')")
    run.ended()
    assert "the clock of this browser stands still" in str(run.error)


# By hand


@pytest.fixture
def measurement(artifacts):
    """One that starts anew with each call of ``fresh``, and a page of it that has begun."""
    made = prepared(request_of(artifacts, "fp32"), "wasm")

    def fresh():
        made.error = made.session = None
        made.done.clear()
        made.holder, made.told, made.news = "held", 0, []

    made.fresh = fresh
    return made


def harmless(text):
    text.encode()
    return text.isprintable() and len(text) < 1500


def test_results_with_each_field_spoilt(measurement, artifacts, capsys):
    result, count = {"page": "held", **believable(artifacts["fp32"])}, 0
    with serving(measurement, "127.0.0.1", 0) as url:
        for path, value, body in spoilt(result):
            measurement.fresh()
            status, answer = post(url, "result", json.dumps(body).encode())
            assert status in (200, 400, 409, 410), (path, value)
            if status == 400:
                assert harmless(answer["why"]) and harmless(measurement.error), (path, value)
            if status == 200:
                session = measurement.session
                kept = json.dumps([record.to_json() for record in session.records.values()] + [session.before])
                assert "\\u001b" not in kept and session.records["fp32"].n == 64
            assert not measurement.news
            count += 1
    assert count > 500 and "Traceback" not in capsys.readouterr().err


def test_what_else_a_page_posts_with_each_field_spoilt(measurement, capsys):
    message, count = {"page": "held", "share": 0.5, "what": "measuring", "why": "no memory"}, 0
    with serving(measurement, "127.0.0.1", 0) as url:
        for path in ("hello", "claim", "progress", "gone", "unfit", "failed"):
            for _, value, body in spoilt(message):
                measurement.fresh()
                status, _ = post(url, path, json.dumps(body).encode(), **{"User-Agent": "Firefox/" + "9" * 9999})
                assert status in (200, 409, 410), (path, value)
                said = [*measurement.news, measurement.error or "", measurement.share[1]]
                assert all(map(harmless, said)) and len(said) < 4, (path, value)
                count += 1
    assert count > 500 and "Traceback" not in capsys.readouterr().err


def test_requests_that_are_none(measurement, capsys):
    """Of strangers and of those who have the address: an answer or none, and the page is served on."""
    rng = np.random.default_rng(0)
    with serving(measurement, "127.0.0.1", 0) as url:
        host, token = url.split("/")[2], url.split("/")[3]
        posted = f"POST /{token}/result HTTP/1.1\r\n"
        requests = [
            *(b"", b"\n", b"\0" * 1000, b"\xff\xfe\r\n\r\n", b"x" * 100_000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"),
            *(
                f"{method} /{token}/ HTTP/1.1\r\n\r\n".encode()
                for method in ("PUT", "HEAD", "TRACE", "\x1b", "G" * 9999)
            ),
            *(
                f"GET {path} HTTP/1.1\r\n\r\n".encode()
                for path in ("//[x", "http://[::1", "/%", "/\xe9", "*", "/" * 9999)
            ),
            *(f"GET /{token}/{path} HTTP/1.0\r\n\r\n".encode() for path in ("//[x", "\xe9", "%00", "..", "?" * 999)),
            *(
                f"{posted}Content-Length: {n}\r\n\r\n".encode()
                for n in ("-1", "1e3", "9" * 5000, "\xb2", "", "0x10", "2")
            ),
            f"{posted}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}".encode(),
            f"{posted}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n".encode(),
            f"{posted}{'X: y' * 20_000}\r\n\r\n".encode(),
            (posted + "X: y\r\n" * 500 + "\r\n").encode(),
            f"{posted}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{{}}".encode(),
        ]
        whole = f"{posted}User-Agent: x\r\nContent-Length: 20\r\n\r\n{{'page': 'held'}}".encode()
        for _ in range(200):
            damaged = bytearray(whole)
            for at in rng.integers(0, len(damaged), rng.integers(1, 6)):
                damaged[at] = rng.integers(256)
            requests.append(bytes(damaged[: rng.integers(1, len(damaged) + 1)]))
        name, port = host.split(":")
        for request in requests:
            measurement.fresh()
            with socket.create_connection((name, int(port)), timeout=30) as wire, suppress(OSError):
                wire.sendall(request)
                wire.shutdown(socket.SHUT_WR)
                while wire.recv(65536):
                    pass
            assert all(map(harmless, measurement.news)), request[:100]
            assert not any("could not be answered" in line for line in measurement.news), request[:100]
        assert post(url, "hello", {})[0] == 200
    assert len(requests) > 200 and "Traceback" not in capsys.readouterr().err


def test_requests_that_do_not_end(measurement, monkeypatch, capsys):
    """They are ended, and so many at a time are heard that a page still is."""
    monkeypatch.setattr("kdcompress.bench.browser.server.HEAD_S", 1.0)
    monkeypatch.setattr("kdcompress.bench.browser.server.CONNECTIONS", 4)
    with serving(measurement, "127.0.0.1", 0) as url:
        place = ("127.0.0.1", int(url.split("/")[2].split(":")[1]))
        slow = [socket.create_connection(place, timeout=30) for _ in range(20)]
        end = time.monotonic() + 30
        while slow:
            assert time.monotonic() < end
            for wire in list(slow):
                try:
                    wire.sendall(b"G")  # a letter now and then
                    wire.settimeout(0.01)
                    ended = not wire.recv(100)
                except TimeoutError:
                    ended = False
                except OSError:
                    ended = True
                if ended:
                    slow.remove(wire)
                    wire.close()
        assert post(url, "hello", {})[0] == 200
    assert "Traceback" not in capsys.readouterr().err


def test_samples_below_the_clock_s_step(serve, artifacts):
    """Means of several are not: a clock of 1 ms times 50 queries of 0.5 ms well."""
    run = serve(request_of(artifacts, "fp32"))
    result = believable(artifacts["fp32"]) | {"resolution_us": 1000, "wall_s": 5}
    page = post(run.url, "claim", {})[1]["page"]
    status, answer = post(run.url, "result", {"page": page, **copy.deepcopy(result)})
    assert status == 400 and "0.5 ms is less than the step of the page's clock, 1000 us" in answer["why"]
    run.ended()
    run = serve(request_of(artifacts, "fp32"))
    result["subjects"]["fp32"]["queries_a_sample"] = 50
    page = post(run.url, "claim", {})[1]["page"]
    assert post(run.url, "result", {"page": page, **result})[0] == 200
    assert run.ended().records["fp32"].median_ms == pytest.approx(0.5315)


@pytest.mark.skipif(not shutil.which("node"), reason="no Node.js")
def test_a_mean_may_be_less_than_the_clock_s_step(tmp_path):
    """The worker's rounds, on a clock of 1 ms and with a model of 0.3 ms."""
    worker = (resources.files("kdcompress") / "bench/browser/page/worker.js").read_text()
    (tmp_path / "run.mjs").write_text(
        "globalThis.self = { postMessage() {} }\nlet time = 0\n"
        "Object.defineProperty(globalThis, 'performance', { value: { now: () => Math.floor(time += 1e-4) } })\n"
        + worker
        + "\nresolution = 1\n"
        "const subject = { queries: [0, 1], count: 67, samples: [], used: 0, run: async () => (time += 0.3) }\n"
        "const job = { seed: 0, seconds: 1, queries: 8, most: 8, cap: 9, subjects: [{ pool: [0, 1] }] }\n"
        "await rounds(job, [subject], () => {})\nconsole.log(JSON.stringify(subject.samples))\n"
    )
    done = subprocess.run(["node", tmp_path / "run.mjs"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx([0.3] * 8, rel=0.1)


def test_the_address_tells_nothing_of_the_machine(monkeypatch):
    """Where it has no way to others, either."""

    class Nowhere(socket.socket):
        def connect(self, place):
            raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "socket", Nowhere)
    assert own_address(socket.AF_INET) == "127.0.0.1" and own_address(socket.AF_INET6) == "::1"


def test_only_the_page_is_served_and_only_to_who_has_the_token(serve, artifacts):
    run = serve(request_of(artifacts, "fp32"))
    root = run.url.rsplit("/", 2)[0]
    for path in ("/", "/x/", "/x/job.json", "/favicon.ico"):
        status, text = answered(root + path)
        assert status == 403 and "Open the whole address" in text
    assert post(root + "/x/", "claim", {})[0] == 403
    for path in ("../../setup.py", "%2e%2e/setup.py", "etc/passwd", "ort", "ort/../page.js", "page.css/"):
        assert answered(run.url + path)[0] == 404
    assert post(run.url, "nothing", {})[0] == 404
    with urllib.request.urlopen(run.url.rstrip("/")) as response:
        assert response.url == run.url and b"<h1>Measure on this device</h1>" in response.read()
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert response.headers["Cache-Control"] == "no-store"
    with urllib.request.urlopen(run.url + "model-0.bin") as response:
        assert response.read() == artifacts["fp32"].path.read_bytes()


def test_what_is_no_post_of_a_page(serve, artifacts):
    run = serve(request_of(artifacts, "fp32"))
    assert post(run.url, "result", {})[0] == 410  # nobody has begun
    status, answer = post(run.url, "claim", {})
    assert status == 200
    assert post(run.url, "claim", {}) == (409, {"why": "Another device, or another page, is measuring."})
    assert post(run.url, "progress", {"page": "x"})[0] == 409
    assert post(run.url, "progress", {"page": ["x"]})[0] == 410
    for body in (b"", b"[]", b"nonsense", b"\xff", b"[" * 100_000):
        assert post(run.url, "progress", body)[0] == 400
    assert post(run.url, "progress", {"page": answer["page"], "share": "x" * 100, "what": 3})[0] == 200
    with socket.create_connection(run.url.split("/")[2].split(":")) as wire:
        path = "/" + run.url.split("/")[3] + "/result"
        wire.sendall(f"POST {path} HTTP/1.0\r\nContent-Length: 999999999\r\n\r\n".encode())
        assert b" 413 " in wire.recv(100)
    assert run.thread.is_alive() and run.error is None
    assert post(run.url, "failed", {"page": answer["page"], "why": "out of memory"})[0] == 200
    run.ended()
    assert str(run.error) == "The browser could not measure: out of memory" and run.error.exit_code == 1


def believable(artifact, n=64):
    with open_runner(artifact) as runner:
        (logits,) = infer_all(runner, IMAGES[:32], artifact.input)
    subject = {
        "failed": None,
        "capped": None,
        "load_ms": 12.5,
        "first_call_ms": 3.5,
        "warmup": 40,
        "warmup_stable": True,
        "queries_a_sample": 1,
        "samples_ms": [0.5 + i / 1000 for i in range(n)],
        "outputs": [base64.b64encode(logits.astype("<f4").tobytes()).decode()],
    }
    device = {"platform": "Android 16", "model": "Pixel 8", "threads": 9, "isolated": True, "secure": True}
    return {
        "version": "1.30.0",
        "threads": 1,
        "start_ms": 100,
        "resolution_us": 5,
        "overhead_us": 0.3,
        "wall_s": 0.5,
        "device": device,
        "subjects": {"fp32": subject},
    }


def test_a_result_that_is_believed(serve, artifacts):
    run = serve(request_of(artifacts, "fp32"))
    page = post(run.url, "claim", {})[1]["page"]
    result = believable(artifacts["fp32"])
    status, answer = post(run.url, "result", {"page": page, **result})
    assert status == 200 and answer["rows"][0]["n"] == 64
    session = run.ended()
    assert session.device == "browser:Firefox 141" and session.before["cpu"] == "Pixel 8"
    assert session.records["fp32"].samples_ms == pytest.approx(result["subjects"]["fp32"]["samples_ms"])
    assert session.records["fp32"].p90_ms == pytest.approx(0.557) and session.parity["fp32"]["passed"]


NOT_BELIEVED = {
    "negative": ("subjects.fp32.samples_ms", [-1.0] * 64, "greater than 0"),
    "zero": ("subjects.fp32.samples_ms", [0.0] * 64, "greater than 0"),
    "not finite": ("subjects.fp32.samples_ms", [float("inf")] * 64, "finite|less than"),
    "text": ("subjects.fp32.samples_ms", ["0.5"] * 64, "valid number"),
    "too few": ("subjects.fp32.samples_ms", [0.5] * 63, "at least 64 were asked for"),
    "too many": ("subjects.fp32.samples_ms", [0.5] * (timing.MOST + 1), "at most 50000"),
    "slower than the clock on the wall": ("subjects.fp32.samples_ms", [20.0] * 64, "queries of 1.3 s in 0.5 s"),
    "no logits": ("subjects.fp32.outputs", [], "outputs of another size"),
    "other than base64": ("subjects.fp32.outputs", ["***"], "base64|Non-base64|padding"),
    "another field": ("subjects.fp32.more", 1, "Extra inputs"),
    "another model": ("subjects.other", {}, "results of"),
    "no subjects": ("subjects", {}, "results of"),
    "long text": ("version", "1" * 501, "at most 500"),
    "threads": ("threads", 0, "greater than or equal to 1"),
}


@pytest.mark.parametrize("what", NOT_BELIEVED)
def test_a_result_that_is_not_believed(serve, artifacts, what):
    path, value, why = NOT_BELIEVED[what]
    run = serve(request_of(artifacts, "fp32"))
    result = copy.deepcopy(believable(artifacts["fp32"]))
    *above, last = path.split(".")
    place = result
    for name in above:
        place = place[name]
    place[last] = value
    page = post(run.url, "claim", {})[1]["page"]
    status, answer = post(run.url, "result", {"page": page, **result})
    assert status == 400 and re.search(why, answer["why"])
    run.ended()
    assert run.session is None and isinstance(run.error, KDCompressError) and re.search(why, str(run.error))


def test_nobody_opens_the_page(serve, artifacts, monkeypatch):
    monkeypatch.setattr("kdcompress.bench.browser.measurement.OPEN_S", 0.5)
    run = serve(request_of(artifacts, "fp32"))
    run.ended()
    assert "No browser has started" in str(run.error) and run.error.exit_code == 1


def test_an_address_in_use(artifacts):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="port is in use"):
            on_browser.bench(request_of(artifacts, "fp32"), f":{port}", lambda *_: None)


@pytest.mark.parametrize("address", ["192.0.2.99", "no-such-host.invalid"])
def test_an_address_that_is_not_of_this_machine(artifacts, address):
    with pytest.raises(UsageError, match="cannot be served on this address"):
        on_browser.bench(request_of(artifacts, "fp32"), address, lambda *_: None)


def test_addresses():
    assert parse_address("") == ("127.0.0.1", 0, "wasm")
    assert parse_address("0.0.0.0:8080,webgpu") == ("0.0.0.0", 8080, "webgpu")
    assert parse_address("webgpu,:80") == ("127.0.0.1", 80, "webgpu")
    assert parse_address("[::1]:80") == ("::1", 80, "wasm")
    for wrong in ("0.0.0.0:99999", "a b", "http://x", "user@host", ":port"):
        with pytest.raises(UsageError, match="cannot be served on this address"):
            parse_address(wrong)


def test_what_is_refused_at_once(artifacts, tmp_path):
    spec = artifacts["fp32"].input
    (tmp_path / "net.tflite").write_bytes(b"x")
    other = Artifact.of(tmp_path / "net.tflite", "litert", "fp32", spec)
    with pytest.raises(UsageError, match=r"does not run this format[\s\S]*allowed: onnx, ort"):
        on_browser.bench(request_of({"x": other}, "x"), "", lambda *_: None)
    shutil.copy(artifacts["fp32"].path, tmp_path / "net.onnx")
    damaged = Artifact.of(tmp_path / "net.onnx", "onnx", "fp32", spec)
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match="not the one that was recorded"):
        on_browser.bench(request_of({"x": damaged}, "x"), "", lambda *_: None)


def test_the_code_on_a_terminal():
    pytest.importorskip("segno")
    program = "from kdcompress.bench.on_browser import announce; announce('http://192.0.2.7:80/abc/', '0.0.0.0')"
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", program], stderr=theirs, check=True, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    assert "http://192.0.2.7:80/abc/" in shown and shown.count("█") > 50


WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (f"Mozilla/5.0 (Linux; Android 10; K) {WEBKIT} Chrome/137.0.0.0 Mobile Safari/537.36", "Chrome 137"),
        (f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5) {WEBKIT} Version/18.5 Mobile/15E148 Safari/604.1", "Safari 18"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0", "Firefox 141"),
        (f"Mozilla/5.0 (Windows NT 10.0) {WEBKIT} Chrome/137.0.0.0 Safari/537.36 Edg/137.0.0.0", "Edge 137"),
        ("", "an unknown browser"),
    ],
)
def test_the_browser_s_name(agent, name):
    assert browser_name(agent) == name
