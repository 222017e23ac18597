"""A run's repository, as it is written, and as the Hub's own library sends it, to a server of the tests."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bundle_files import invoke, rows_of
from huggingface_hub import ModelCard

from kdcompress.pipelines.hub.card import card, named
from kdcompress.pipelines.hub.without_paths import last, without_paths
from kdcompress.pipelines.verify import verify

SMALL = ("teacher=null", "method=none", "train.images=64", "gates={}", "bench.effort=rapid", "export.max_drop=100")


@pytest.fixture(scope="module")
def run(tmp_path_factory, fashion_mnist_root):
    folder = tmp_path_factory.mktemp("somebodys-home") / "run"
    asked = ("run", "fashion-mnist-demo", *SMALL, f"data.root={fashion_mnist_root}", "data.train_images=200")
    found = invoke(*asked, "export.targets=[onnx-fp16]", "-o", folder)
    assert (folder / "report.json").is_file(), found.output
    return folder


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "here"
    targets = ("--target", "onnx-fp16", "--target", "student-fp32")
    found = invoke("push", run, "my-team/fashion", *targets, "--to", folder, "--license", "apache-2.0")
    assert found.exit_code == 0, found.output
    return folder, found


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A user without a token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))


def test_bundles_of_the_repository_are_whole_and_work(written):
    folder, _ = written
    names = sorted(path.name for path in folder.iterdir())
    bundles = ["fashion-mnist-demo-onnx-fp16", "fashion-mnist-demo-student-fp32"]
    assert names == sorted([*bundles, "README.md", "report.html", "report.json", "report.md"])
    assert json.loads((folder / bundles[0] / "model.json").read_text())["target"] == "onnx-fp16"
    verify(folder / bundles[1])


def test_the_card_says_what_the_hub_reads(written, run):
    folder, _ = written
    said, rows = ModelCard.load(folder / "README.md"), rows_of(run)
    data = said.data.to_dict()
    assert data["license"] == "apache-2.0" and data["library_name"] == "kdcompress"
    assert data["pipeline_tag"] == "image-classification" and {"onnx", "fp16"} <= set(data["tags"])
    assert data["datasets"] == ["zalando-datasets/fashion_mnist"] and data["metrics"] == ["accuracy"]
    scores = {result.metric_name.split(", ")[1]: result.metric_value for result in said.data.eval_results}
    assert scores == {
        "student-onnx-fp16": round(rows["onnx-fp16"]["score"], 4),
        "student-fp32": round(rows["student-fp32"]["score"], 4),
    }
    assert {(result.task_type, result.dataset_split) for result in said.data.eval_results} == {
        ("image-classification", "test")
    }
    assert "hf download my-team/fashion" in said.text and "from the labels alone" in said.text


def test_nothing_says_where_it_was_made(written, run, fashion_mnist_root):
    folder, _ = written
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for private in (run.parent, fashion_mnist_root, Path.home()):
            assert str(private).encode() + b"/" not in content, path.relative_to(folder)
    shared, own = (json.loads((place / "report.json").read_text()) for place in (folder, run))
    assert shared["recipe"]["data"]["root"] == fashion_mnist_root.name and "/" in own["data"]["origin"]
    assert shared["rows"] == own["rows"] and shared["recipe_hash"] == own["recipe_hash"]


@pytest.mark.parametrize(
    ("teacher", "name"),
    [
        ({"model": "vgg8", "file": None}, "vgg8"),
        ({"model": "", "file": "of/mine/teacher.onnx", "answers": None}, "teacher.onnx"),
        ({"model": "", "file": None, "answers": "theirs"}, "theirs"),
        ({"model": "vgg8"}, "vgg8"),  # of a report from before there were other teachers
    ],
)
def test_a_card_names_any_teacher(teacher, name):
    assert named(teacher) == name


def test_what_the_report_recommends_is_the_default_and_a_dry_run_only_lists(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = invoke("push", run, "my-team/fashion", "--dry-run", "--to", tmp_path / "here", "--json")
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert said["page"] is None and not list(tmp_path.iterdir())
    ships = {part["file"].split("/")[0] for part in said["files"] if "/" in part["file"]}
    assert len(ships) == 1 and all(part["bytes"] > 0 for part in said["files"])
    listed = invoke("push", run, "my-team/fashion", "--dry-run").output
    assert "model.json" in listed and "not sent: " in listed and "no licence is stated" in listed


def test_without_a_token_nothing_is_made_and_the_next_step_is_said(run):
    found = invoke("push", run, "my-team/fashion", "--yes")
    assert found.exit_code == 2 and "no token" in found.output and "hf auth login" in found.output
    assert "--to FOLDER" in found.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("fashion",), "OWNER/NAME"),
        (("a/b/c",), "OWNER/NAME"),
        (("my team/fashion",), "OWNER/NAME"),
        (("my-team/fashion", "--license", "Apache 2"), "no licence"),
        (("my-team/fashion", "--target", "onnx-fp17"), "did you mean 'onnx-fp16'"),
    ],
)
def test_what_cannot_be_sent_is_refused(run, tmp_path, more, said):
    found = invoke("push", run, *more, "--to", tmp_path / "here")
    assert found.exit_code == 2 and said in found.output and not list(tmp_path.glob("*here*"))


def test_what_is_there_already_stays(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    found = invoke("push", run, "my-team/fashion", "--to", tmp_path)
    assert found.exit_code == 2 and "not overwritten" in found.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as takes a commit of small files."""

    def answer(self, value, code=200):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.asked.append(("GET", self.path))
        files = [{"rfilename": name} for name in self.server.there]
        if "/tree/" in self.path:
            return self.answer([{"type": "file", "path": name, "size": 1, "oid": "0"} for name in self.server.there])
        self.answer({"id": "my-team/fashion", "private": self.server.private, "siblings": files, "sha": "0" * 40})

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(("POST", self.path))
        if self.headers.get("Authorization") != "Bearer hf_test":
            return self.answer({"error": "no"}, 403)
        if self.path == "/api/validate-yaml":
            self.server.cards.append(json.loads(content)["content"])
            wrong = [{"message": '"license" must be one of these'}] if self.server.refuses else []
            return self.answer({"errors": wrong, "warnings": []}, 400 if wrong else 200)
        if "/preupload/" in self.path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(content)["files"]
            ]  # noqa: E501
            return self.answer({"files": files})
        if "/commit/" in self.path:
            self.server.commits.append([json.loads(line) for line in content.splitlines()])
            return self.answer(
                {"success": True, "commitUrl": f"{self.server.url}/my-team/fashion/commit/1", "commitOid": "1"}
            )
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(content))
        self.answer({"url": f"{self.server.url}/my-team/fashion", "id": "my-team/fashion", "name": "my-team/fashion"})

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.private, server.refuses, server.there = (
        True,
        False,
        ["README.md", "fashion-mnist-demo-onnx-fp16/old.txt", "notes.txt"],
    )
    server.asked, server.cards, server.commits, server.created = [], [], [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def test_the_hub_gets_the_same_files(hub, run, written):
    folder, _ = written
    targets = ("--target", "onnx-fp16", "--target", "student-fp32", "--license", "apache-2.0")
    found = invoke("push", run, "my-team/fashion", *targets, "--private", "--revision", "v1", "--yes")
    assert found.exit_code == 0, found.output
    assert f"sent: {hub.url}/my-team/fashion/commit/1" in found.output
    assert hub.created[0]["name"] == "fashion" and hub.created[0]["organization"] == "my-team"
    assert ("POST", "/api/models/my-team/fashion/branch/v1") in hub.asked
    (commit,) = hub.commits
    sent = {op["value"]["path"]: base64.b64decode(op["value"]["content"]) for op in commit if op["key"] == "file"}
    assert sent == {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    gone = [op["value"]["path"] for op in commit if op["key"] == "deletedFile"]
    assert gone == ["fashion-mnist-demo-onnx-fp16/old.txt"]
    assert hub.cards == [(folder / "README.md").read_text()]


def test_nothing_is_sent_without_a_yes(hub, run):
    found = invoke("push", run, "my-team/fashion")
    assert found.exit_code == 1 and "Aborted" in found.output and not hub.asked


def test_a_public_repository_does_not_get_what_was_to_be_private(hub, run):
    hub.private = False
    found = invoke("push", run, "my-team/fashion", "--private", "--yes")
    assert found.exit_code == 2 and "is public already" in found.output and not hub.commits


def test_a_card_that_the_hub_does_not_take_is_told_with_its_reason(hub, run):
    hub.refuses = True
    found = invoke("push", run, "my-team/fashion", "--license", "mine", "--yes")
    assert found.exit_code == 1 and "did not take it" in found.output and "must be one of these" in found.output
    assert not hub.commits


def test_a_token_that_may_not_write_and_a_hub_that_is_not_there(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    found = invoke("push", run, "my-team/fashion", "--yes")
    assert found.exit_code == 2 and "does not let this token write" in found.output and "hf_other" not in found.output
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    found = invoke("push", run, "my-team/fashion", "--yes")
    assert found.exit_code == 1 and "cannot be reached" in found.output


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("/home/ann/data/photos", "photos"),
        ("run data.root=/srv/a-b/x.y student.weights=~/w.pt", "run data.root=x.y student.weights=w.pt"),
        (r"C:\Users\ann\photos", "photos"),
        ("https://huggingface.co/timm/resnet18", "https://huggingface.co/timm/resnet18"),
        ("timm/local-dir:/home/ann/net", "timm/local-dir:net"),
        ("timm/resnet18", "timm/resnet18"),
        ("1/2 of 4 images/s, a / b", "1/2 of 4 images/s, a / b"),
        ("(/tmp/x/y.onnx, 3 MB)", "(y.onnx, 3 MB)"),
        ("photos", "photos"),
    ],
)
def test_of_a_path_its_last_part_is_left(text, plain):
    assert without_paths({"recipe": {"data": {}}, "command": text})["command"] == plain


def test_relative_paths_devices_and_names_of_the_hub():
    recipe = {
        "data": {"root": "../clients/acme", "unlabelled": "more/of them"},
        "teacher": {"weights": "old runs/t.pt"},
        "bench": {"device": "ssh:ann@10.0.0.7"},
    }
    document = {
        "recipe": recipe,
        "command": "kdcompress run x data.root=../clients/acme",
        "rows": [{"why": "not timed on ssh:ann@10.0.0.7", "file": "artifacts/student.onnx"}],
        "device": {"name": "ssh:ann@10.0.0.7"},
    }
    found = without_paths(document)
    assert found["recipe"]["data"] == {"root": "acme", "unlabelled": "of them"}
    assert found["recipe"]["teacher"]["weights"] == "t.pt" and found["command"].endswith("data.root=acme")
    assert found["rows"] == [{"why": "not timed on ssh", "file": "artifacts/student.onnx"}]
    hub = {"recipe": {"data": {"root": "org/photos"}}}
    assert without_paths(hub, hub_data=True) == hub and last("/") == "."


@pytest.mark.parametrize(
    ("student", "base"),
    [
        ({"model": "timm/hf-hub:somebody/insects@v2", "pretrained": True}, "somebody/insects"),
        ({"model": "timm/resnet18", "pretrained": True}, "timm/resnet18.a1_in1k"),
        ({"model": "timm/resnet18", "pretrained": False}, None),
        ({"model": "resnet8"}, None),
    ],
)
def test_a_card_names_the_data_and_the_weights_that_it_began_with(run, student, base):
    document = json.loads((run / "report.json").read_text())
    document["recipe"] |= {"student": student, "data": {"source": "huggingface", "root": "somebody/photos", "hub": {}}}
    document["data"]["origin"] = "https://huggingface.co/datasets/somebody/photos, revision abc"
    said = ModelCard(card(document, {"x": rows_of(run)["onnx-fp16"]}, "my-team/fashion", None)).data.to_dict()
    assert said.get("base_model") == base and said["datasets"] == ["somebody/photos"] and "license" not in said
