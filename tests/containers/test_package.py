"""What `pconv-deploy package` writes, by schemas and by its steps in a fresh environment."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from PIL import Image

from pconv_deploy.containers import dependencies
from pconv_deploy.containers.folder import write_package
from pconv_deploy.errors import EngineError, MissingRuntimeError, UsageError
from pconv_deploy.inpainter import Inpainter
from tests.cli.conftest import Run
from tests.cli.conftest import run as run

KUBERNETES = "1.34"


@pytest.fixture(scope="module")
def package(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "photos"
    write_package(engine, folder, name="photos")
    return folder


def test_kubernetes_takes_the_manifests(package: Path) -> None:
    import kubernetes_validate

    files = ("kubernetes.yaml", "kubernetes-batch.yaml")
    texts = [(package / file).read_text() for file in files]
    resources = [each for text in texts for each in yaml.safe_load_all(text)]
    for resource in resources:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    kinds = ["Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Job"]
    assert [resource["kind"] for resource in resources] == kinds
    for resource in (resources[0], resources[-1]):
        pod = resource["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def test_the_bill_of_materials_is_valid_and_complete(package: Path) -> None:
    text = (package / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = {each["name"]: each for each in json.loads(text)["components"]}
    pinned = dict(
        line.split("==") for line in (package / "requirements.txt").read_text().splitlines()
    )
    libraries = {n: c["version"] for n, c in components.items() if c["type"] == "library"}
    assert libraries == pinned | {"pconv-deploy": libraries["pconv-deploy"]}
    assert all(components[name].get("licenses") for name in libraries)
    manifest = json.loads((package / "engines/photos.engine/manifest.json").read_text())
    hashes = {
        c["name"]: c["hashes"][0]["content"] for c in components["photos.engine"]["components"]
    }
    assert hashes["model.onnx"] == manifest["files"]["model.onnx"]["sha256"]
    licensed = {path.name for path in (package / "licences").iterdir()}
    assert {name.rpartition("-")[0] for name in licensed} >= {"onnxruntime", "numpy", "pillow"}


@pytest.fixture(scope="module")
def image(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh environment in which the Dockerfile's RUN and COPY steps were done."""
    root = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", root / "python"], check=True)
    dockerfile = (package / "Dockerfile").read_text()
    for step, words in re.findall(r"^(COPY|RUN) (.*)$", dockerfile, re.MULTILINE):
        arguments = shlex.split(words)
        if step == "COPY":
            source, target = arguments
            subprocess.run(["cp", "-r", package / source, _inside(root, target)], check=True)
        else:
            assert arguments[0] == "python"
            inside = [_inside(root, word) if word.startswith("/") else word for word in arguments]
            done = subprocess.run(
                [root / "python/bin/python", *inside[1:], "-q", "--disable-pip-version-check"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
    before = _tree(root)
    yield root
    assert _tree(root) == before  # as permissions hold nobody back who runs the tests as root


def _tree(root: Path) -> dict[Path, int]:
    """Every file of code and engine, and when it was written."""
    places = (root / "app", root / "engines")
    return {path: path.stat().st_mtime_ns for place in places for path in place.rglob("*")}


def _inside(root: Path, path: str) -> Path:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _command(image: Path, *arguments: object) -> list[str]:
    """What the image's ENTRYPOINT runs: with its environment alone."""
    python = image / "python/bin/python"
    environment = (
        f"PYTHONPATH={image / 'app'}",
        "PYTHONDONTWRITEBYTECODE=1",
        f"HOME={image / 'tmp'}",
    )
    return ["env", "-i", *environment, str(python), "-m", "pconv_deploy", *map(str, arguments)]


def test_the_list_is_complete_and_without_torch(image: Path) -> None:
    python = image / "python/bin/python"
    subprocess.run([python, "-m", "pip", "check"], check=True, capture_output=True)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    ).stdout
    assert not re.search(r"^(torch|onnx|openvino|nncf)==", listed, re.MULTILINE)


@pytest.fixture
def server(image: Path, package: Path) -> Iterator[str]:
    """The address of what the Dockerfile's CMD starts."""
    (line,) = re.findall(r"^CMD (.*)$", (package / "Dockerfile").read_text(), re.MULTILINE)
    command, engine, *options = json.loads(line)
    assert options == ["--host", "0.0.0.0"]
    process = subprocess.Popen(
        _command(image, command, _inside(image, engine), "--port", 0),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert process.stdout is not None
    ready = next((said for said in process.stdout if "ready" in said), "")
    assert ready, process.stderr.read() if process.stderr else ""
    yield ready.split()[0].rstrip("/")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def test_it_serves_and_its_health_check_passes(server: str, image: Path, package: Path) -> None:
    (line,) = re.findall(r"^HEALTHCHECK .* CMD (.*)$", (package / "Dockerfile").read_text(), re.M)
    words = [word.replace("http://127.0.0.1:8000", server) for word in json.loads(line)]
    subprocess.run([image / "python/bin/python", *words[1:]], check=True)
    with urllib.request.urlopen(f"{server}/v1/models") as answer:
        assert "photos" in answer.read().decode()


def test_the_batch_job_fills_what_this_machine_fills(
    image: Path, package: Path, inpainter: Inpainter, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    photo = Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8))
    photo.save(tmp_path / "photos/a.png")
    hole = np.zeros((40, 56), np.uint8)
    hole[8:20, 10:30] = 255
    Image.fromarray(hole).save(tmp_path / "hole.png")
    (job,) = yaml.safe_load_all((package / "kubernetes-batch.yaml").read_text())
    template = job["spec"]["template"]["spec"]["containers"][0]["args"]
    places = {"/engines": image / "engines", "/input/photos": tmp_path / "photos",
              "/input/masks": tmp_path / "hole.png", "/output": tmp_path / "o"}  # fmt: skip
    for index in range(job["spec"]["completions"]):
        arguments = [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in template]
        for place, here in places.items():
            arguments = [word.replace(place, str(here)) for word in arguments]
        subprocess.run(_command(image, *arguments), check=True, capture_output=True)
    with Image.open(tmp_path / "o/a.png") as filled:
        assert (np.array(filled) == np.array(inpainter(photo, hole))).all()


def test_written_twice_and_foreign_folders(run: Run, engine: Path, tmp_path: Path) -> None:
    first = run("package", engine, "-o", tmp_path / "p")
    assert first.code == 0
    assert "no image was built" in first.err
    assert (tmp_path / "p/engines/tiny.engine/manifest.json").exists()
    assert run("package", engine, "-o", tmp_path / "p").code == 2
    assert run("package", engine, "-o", tmp_path / "p", "--overwrite").code == 0
    (tmp_path / "p/mine.txt").touch()
    refused = run("package", engine, "-o", tmp_path / "p", "--overwrite")
    assert (refused.code, (tmp_path / "p/mine.txt").exists()) == (2, True)


def test_a_changed_file_is_not_packaged_and_a_deleted_graph_is_not_listed(
    engine: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.engine"
    shutil.copytree(engine, copy)
    (copy / "graph.onnx").unlink()
    write_package(copy, tmp_path / "p")
    text = (tmp_path / "p/sbom.cdx.json").read_text()
    assert ('"model.onnx"' in text, '"graph.onnx"' in text) == (True, False)
    for file in ("golden.png", "model.onnx"):
        with (copy / file).open("r+b") as stream:
            stream.write(b"x")
        with pytest.raises(EngineError, match="was changed after it was built"):
            write_package(copy, tmp_path / "q")
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize("name", ["Photos", "a b", "-a", "a" * 60, "x\nUSER root"])
def test_names_that_would_break_the_files(engine: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="found the name"):
        write_package(engine, tmp_path / "p", name=name)


def test_what_cannot_be_packaged(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError):
        write_package(tmp_path, tmp_path / "p")
    with pytest.raises(UsageError, match="lies in one"):
        write_package(engine, engine / "p")
    monkeypatch.setitem(dependencies._IN_CONTAINERS, "starlette", "no-such-package>=1")
    with pytest.raises(MissingRuntimeError, match="no-such-package is not installed"):
        write_package(engine, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    monkeypatch.delitem(dependencies._IN_CONTAINERS, "starlette")
    monkeypatch.setattr(dependencies, "distribution", without("onnxruntime"))
    with pytest.raises(MissingRuntimeError, match=r"'onnxruntime>=[\d.]+'$"):
        write_package(engine, tmp_path / "p")


def without(package: str) -> Callable[[str], Distribution]:
    def installed(name: str) -> Distribution:
        if name == package:
            raise PackageNotFoundError(name)
        return distribution(name)

    return installed
