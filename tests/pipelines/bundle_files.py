"""What the tests of bundles share."""

import hashlib
import json
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kdcompress.bench import onnxruntime_web
from kdcompress.cli.main import main

GRAMMARS = {".cpp": "cpp", ".kt": "kotlin", ".swift": "swift"}


STUB = """
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>
#define ORT_TSTR(text) text
enum { ORT_LOGGING_LEVEL_ERROR, OrtArenaAllocator, OrtMemTypeDefault };
namespace Ort {
struct Env { Env(int, const char*) {} };
struct SessionOptions {
  void SetIntraOpNumThreads(int) {}
  void SetInterOpNumThreads(int) {}
  void AddConfigEntry(const char*, const char*) {}
};
struct MemoryInfo { static MemoryInfo CreateCpu(int, int) { return {}; } };
struct Info {
  std::vector<int64_t> shape;
  std::vector<int64_t> GetShape() const { return shape; }
};
struct Value {
  Info info;
  std::vector<float> values;
  template <typename T>
  static Value CreateTensor(const MemoryInfo&, T*, size_t, const int64_t*, size_t) { return {}; }
  Info GetTensorTypeAndShapeInfo() const { return info; }
  template <typename T>
  const T* GetTensorData() const { return values.data(); }
};
struct RunOptions { RunOptions(std::nullptr_t) {} };
struct Session {
  Session(const Env&, const char*, const SessionOptions&) {}
  std::vector<Value> Run(const RunOptions&, const char**, Value*, size_t, const char** names, size_t count) {
    const std::vector<std::vector<int64_t>> shapes = SHAPES;
    std::vector<Value> outputs;
    for (size_t i = 0; i < count; ++i) {
      size_t size = 1;
      for (int64_t side : shapes[i]) size *= side;
      std::ifstream file(std::string(names[i]) + ".bin", std::ios::binary);
      std::vector<float> values(size);
      file.read(reinterpret_cast<char*>(values.data()), values.size() * sizeof(float));
      outputs.push_back({{shapes[i]}, values});
    }
    return outputs;
  }
};
}
"""


def ort_stub(*shapes):
    """A stand-in for ONNX Runtime's C++ header, which no package has: it gives the outputs, of these shapes, that are
    in files of their names."""
    listed = ", ".join("{" + ", ".join(map(str, shape)) + "}" for shape in shapes)
    return STUB.replace("SHAPES", "{" + listed + "}")


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def rows_of(run):
    return {row["target"] or row["name"]: row for row in json.loads((run / "report.json").read_text())["rows"]}


def bundler(run, rows, new_folder, left_out):
    """A function: target -> its bundle. Skips where there is nothing to bundle here, as ``left_out(target)`` says."""
    made = {}

    def of(target):
        if left_out(target):
            pytest.skip(f"{target}: {rows[target]['why']}")
        if target not in made:
            found = invoke("bundle", run, "--target", target, "-o", new_folder("bundles"), "--json")
            assert found.exit_code == 0, found.output
            made[target] = Path(json.loads(found.stdout)[0])
        return made[target]

    return of


def signed_again(folder):
    """SHA256SUMS of what is there now: a bundle that was wrong from the start."""
    names = [line.split("  ", 1)[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def check_syntax(path):
    """By the grammars of tree-sitter, which editors use."""
    tree_sitter = pytest.importorskip("tree_sitter")
    language = tree_sitter.Language(pytest.importorskip(f"tree_sitter_{GRAMMARS[path.suffix]}").language())
    found = tree_sitter.Parser(language).parse(path.read_bytes()).root_node
    assert not found.has_error, f"{path.name}: {found}"
    assert tree_sitter.Parser(language).parse(path.read_bytes().rpartition(b"}")[0]).root_node.has_error


@contextmanager
def opened(folder, *options):
    """The page of a bundle in Chromium, once it has loaded, and what it asked for. This machine's onnxruntime-web is in
    place of the one that the page gets from the network."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    web = onnxruntime_web.files()
    asked = []

    def answer(route):
        asked.append(route.request.url)
        name = route.request.url.rsplit("/", 1)[-1] or "index.html"
        kind = {"mjs": "text/javascript", "wasm": "application/wasm", "html": "text/html"}.get(name.rpartition(".")[2])
        if name in web or (folder / name).is_file():
            body = web[name] if name in web else (folder / name).read_bytes()
            route.fulfill(body=body, content_type=kind, headers={"Access-Control-Allow-Origin": "*"})
        else:
            route.fulfill(status=404)

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *options])
        page = browser.new_page()
        page.route("**/*", answer)
        page.goto("http://localhost:8000/")
        page.wait_for_function("!document.getElementById('state').textContent.startsWith('Loading')", timeout=600_000)
        yield page, asked
        browser.close()


def masks_of_page(folder, outputs, tmp_path):
    """What the page's module in a bundle's ``folder`` finds in a segmenter's outputs to one image: rows of label, score
    and the mask's pixels."""
    given = [list(map(str, each.ravel())) for each in outputs]
    (tmp_path / "given.json").write_text(json.dumps(given))
    program = tmp_path / "run.mjs"
    program.write_text(
        "import fs from 'node:fs'\n"
        "const [folder, given] = process.argv.slice(2)\n"
        "const { masked, suppressed } = await import(folder + '/instance_segmenter.mjs')\n"
        "const read = (name) => JSON.parse(fs.readFileSync(name))\n"
        "const model = read(folder + '/model.json')\n"
        "const number = (text) => ({ nan: NaN, inf: Infinity })[text] ?? Number(text)\n"
        "const all = read(given).map((each) => Float32Array.from(each, number))\n"
        "const found = suppressed(all[0], all[1], { ...model.suppression, score: 0.3 })\n"
        "const rows = found.map((one) => [one.label, one.score, ...masked(one, ...all.slice(2), model)])\n"
        "console.log(JSON.stringify(rows))\n"
    )
    done = subprocess.run(["node", program, folder, tmp_path / "given.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout))
