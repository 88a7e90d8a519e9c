"""No command asks the network anything, and the home folder gets caches at most."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from pconv_deploy.assets.network import copy_network
from pconv_deploy.assets.photos import photos
from tests import offline
from tests.training.conftest import SMALL

CACHES = {"matplotlib", "fontconfig"}
PLACES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
# Where one of these is set, ONNX Runtime reports nothing, and these tests would see nothing.
CI = [
    "CI",
    "TF_BUILD",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "CIRCLECI",
    "TRAVIS",
    "JENKINS_URL",
    "CODEBUILD_BUILD_ID",
    "BUILDKITE",
    "TEAMCITY_VERSION",
    "APPVEYOR",
    "BITBUCKET_BUILD_NUMBER",
]
# ONNX Runtime's first release that does on Linux.
REPORTS = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 29)


def run_offline(folder: Path, *arguments: object, **environment: str) -> int:
    """Run Python in `folder`; its home folder is `folder`/home, which was empty."""
    hidden = (*PLACES, *CI, "ORT_DISABLE_TELEMETRY")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    (folder / "home").mkdir()
    done = subprocess.run(
        [sys.executable, offline.__file__, *map(str, arguments)],
        cwd=folder,
        env=inherited | {"HOME": str(folder / "home")} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    print(done.stdout, done.stderr)  # noqa: T201  shown if the test fails
    return done.returncode


def left_in_home(folder: Path) -> set[str]:
    """Names in .cache and .config, and what lies beside these two."""
    home = folder / "home"
    both = (home / ".cache", home / ".config")
    found = {*home.iterdir(), *(inside for place in both for inside in place.glob("*"))}
    return {path.name for path in found.difference(both)}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ and a small network."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "photos").mkdir()
    for name, photo in photos().items():
        for side in (64, 96):
            photo.resize((side, side)).save(folder / "photos" / f"{name}{side}.png")
    copy_network(folder / "compact.safetensors")
    return folder


# Between them they import all that any command does.
COMMANDS = {
    "export and int8": "build-engine {checkpoint} -o 8.engine --size 64 "
    "--backend openvino --precision int8 --calibration-photos {material}/photos",
    "infer": "infer {engine} {files}/in {files}/mask.png -o filled",
    "evaluate": "evaluate {engine} {checkpoint} telea patchmatch biharmonic "
    "--images {material}/photos --size 64x64 --per-class 1 --workers 2 -o scores",
    "masks": "masks make holes --size 64x64 --count 1",
    "train": "train run -c mini --photos {material}/photos",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command(name: str, material: Path, files: Path, request: pytest.FixtureRequest) -> None:
    shared = {name: request.getfixturevalue(name) for name in ("checkpoint", "graph", "engine")}
    words = COMMANDS[name].format(**shared, files=files, material=material).split()
    words += [f"--set={setting}" for setting in SMALL if name == "train"]
    # A random network may lose more in int8 than is allowed: 4.
    assert run_offline(files, "-m", "pconv_deploy", *words) in (0, 4)
    assert left_in_home(files) <= CACHES


def test_a_program_that_embeds_the_package(engine: Path, tmp_path: Path) -> None:
    code = (
        f"from pconv_deploy import Inpainter; Inpainter.load({str(engine)!r}).warm_up([(32, 32)])"
    )
    assert run_offline(tmp_path, "-c", code) == 0
    assert left_in_home(tmp_path) == set()


@pytest.mark.skipif(not REPORTS, reason="this ONNX Runtime reports nothing on Linux")
@pytest.mark.parametrize(("value", "reports"), [("0", True), ("", False)])
def test_the_users_own_choice_stays(value: str, reports: bool, tmp_path: Path) -> None:
    """That it reports also shows that these tests would see it."""
    # A thread of its own reports, some time after the import: in the home folder or by a socket.
    code = "import pconv_deploy, onnxruntime, time; time.sleep(5)"
    ended = run_offline(tmp_path, "-c", code, ORT_DISABLE_TELEMETRY=value)
    seen = ended == -signal.SIGSYS or "Microsoft" in left_in_home(tmp_path)
    assert seen is reports
    assert reports or (ended, left_in_home(tmp_path)) == (0, set())


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import socket; socket.getaddrinfo('example.org', 443)",
    ],
)
def test_network_use_would_be_seen(code: str, tmp_path: Path) -> None:
    assert run_offline(tmp_path, "-c", code) == -signal.SIGSYS
