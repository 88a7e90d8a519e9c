import json
import shutil
from pathlib import Path

import msgspec
import pytest

from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.manifest import Manifest, read_manifest, write_manifest
from pconv_deploy.errors import EngineError, OutputError, UsageError
from pconv_deploy.triton.repository import write_model
from tests.cli.conftest import Run
from tests.explained import explained
from tests.triton import rules
from tests.triton.conftest import PLAN, MakePlan, parsed


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_an_onnx_engine_becomes_a_model(engine: Path, manifest: Manifest, tmp_path: Path) -> None:
    served = write_model(engine, tmp_path / "repo")
    assert tree(tmp_path) == {
        "repo", "repo/tiny", "repo/tiny/config.pbtxt", "repo/tiny/1", "repo/tiny/1/model.onnx",
    }  # fmt: skip
    assert served.folder == tmp_path / "repo" / "tiny"
    copied = (served.folder / "1" / "model.onnx").read_bytes()
    assert copied == (engine / "model.onnx").read_bytes()
    config = parsed(served.folder / "config.pbtxt")
    rules.check(config, manifest.contract)
    # Triton demands that the model is called as its folder.
    assert config.name == "tiny"
    assert len(served.notes) == 1
    assert served.notes[0].startswith("built and compared with onnxruntime ")


def test_a_plan_becomes_a_model(plan_engine: MakePlan, tmp_path: Path) -> None:
    engine = plan_engine()
    served = write_model(engine, tmp_path / "repo", name="fill.v2")
    assert (served.folder / "1" / "model.plan").read_bytes() == PLAN
    config = parsed(tmp_path / "repo" / "fill.v2" / "config.pbtxt")
    manifest = read_manifest(engine)
    rules.check(config, manifest.contract, manifest.engine.profiles)
    assert config.name == "fill.v2"
    assert served.notes == (
        "NOT compared with its graph when it was built: the machine that built it could not run it",
        "opens only where Triton brings tensorrt 10.13.2 on NVIDIA H200 (9.0)",
    )


def test_version_compatible_plans_come_with_the_servers_option(
    plan_engine: MakePlan, tmp_path: Path
) -> None:
    engine = plan_engine(options=TensorRtOptions(version_compatible=True))
    notes = write_model(engine, tmp_path / "repo").notes
    assert "--backend-config=tensorrt,version-compatible=true" in notes[1]


def test_models_stand_beside_each_other_and_are_replaced_when_asked(
    engine: Path, plan_engine: MakePlan, tmp_path: Path
) -> None:
    repository = tmp_path / "repo"
    write_model(engine, repository)
    write_model(plan_engine(), repository)
    assert {path.name for path in repository.iterdir()} == {"tiny", "unet"}
    with pytest.raises(UsageError, match="already exists; pass --overwrite"):
        write_model(engine, repository)
    write_model(engine, repository, name="unet", overwrite=True)
    assert tree(repository / "unet") == {"config.pbtxt", "1", "1/model.onnx"}


@pytest.mark.parametrize("added", ["1/notes.txt", "2/model.onnx", "labels.txt"])
def test_models_that_others_added_to_are_not_replaced(
    engine: Path, tmp_path: Path, added: str
) -> None:
    served = write_model(engine, tmp_path)
    path = served.folder / added
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="not ours to replace"):
        write_model(engine, tmp_path, overwrite=True)
    assert path.exists()


def test_a_configuration_by_somebody_else_is_not_replaced(engine: Path, tmp_path: Path) -> None:
    served = write_model(engine, tmp_path)
    (served.folder / "config.pbtxt").write_text('name: "tiny"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="not ours to replace"):
        write_model(engine, tmp_path, overwrite=True)


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "-o", "a b", "x" * 129, "ä"])
def test_names_that_no_folder_or_address_should_have(
    engine: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="found the model name"):
        write_model(engine, tmp_path / "repo", name=name)
    assert not (tmp_path / "repo").exists()


def test_engines_of_other_backends_are_refused(
    engine: Path, manifest: Manifest, tmp_path: Path
) -> None:
    copy = shutil.copytree(engine, tmp_path / "other.engine")
    write_manifest(copy, msgspec.structs.replace(manifest, backend="openvino"))
    with pytest.raises(EngineError, match="needed one for tensorrt, onnxruntime, onnxruntime-cuda"):
        write_model(copy, tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_a_changed_engine_is_not_copied(plan_engine: MakePlan, tmp_path: Path) -> None:
    engine = plan_engine()
    (engine / "engine.plan").write_bytes(PLAN.swapcase())
    with explained(EngineError, match=r"was changed after it was built\.\n  Rebuild it: "):
        write_model(engine, tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_a_plan_without_weights_is_refused(plan_engine: MakePlan, tmp_path: Path) -> None:
    engine = plan_engine(options=TensorRtOptions(refit=True, strip_weights=True))
    with explained(EngineError, match=r"without its weights[^$]*Put them in: pconv-deploy refit"):
        write_model(engine, tmp_path / "repo")


def test_a_plan_that_opens_nowhere_is_refused(plan_engine: MakePlan, tmp_path: Path) -> None:
    engine = plan_engine()
    facts = json.loads((engine / "manifest.json").read_text())
    facts["built_with"]["gpu"] = None
    (engine / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(EngineError, match="built where there was no GPU, and so opens on none"):
        write_model(engine, tmp_path / "repo")


def test_nothing_is_called_compared_that_was_not(engine: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(engine, tmp_path / "cuda.engine")
    facts = json.loads((copy / "manifest.json").read_text())
    why = "this ONNX Runtime has no CUDAExecutionProvider"
    facts |= {"backend": "onnxruntime-cuda", "engine_parity": None, "not_compared": why}
    (copy / "manifest.json").write_text(json.dumps(facts))
    notes = write_model(copy, tmp_path / "repo").notes
    assert notes[0] == f"NOT compared with its graph when it was built: {why}"
    assert notes[1].startswith("built with onnxruntime ")


def test_an_engine_that_failed_its_comparison_is_refused(engine: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(engine, tmp_path / "failed.engine")
    facts = json.loads((copy / "manifest.json").read_text())
    facts["engine_parity"]["cases"][0]["finite"] = False
    (copy / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(EngineError, match="was not accepted when it was built"):
        write_model(copy, tmp_path / "repo")


@pytest.mark.parametrize("below", [".", "repo", "deeper/repo"])
def test_engines_are_not_written_into(engine: Path, tmp_path: Path, below: str) -> None:
    copy = shutil.copytree(engine, tmp_path / "copy.engine")
    before = tree(copy)
    with pytest.raises(UsageError, match="is an engine or lies in one"):
        write_model(copy, copy / below)
    assert tree(copy) == before


def test_a_repository_that_is_a_file(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "repo").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot write"):
        write_model(engine, tmp_path / "repo")
    assert (tmp_path / "repo").read_text(encoding="utf-8") == "mine"


def test_the_command(run: Run, plan_engine: MakePlan, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    result = run(
        "triton-repo", plan_engine(), "-o", repository, "--name", "fill", "--profiles", "2, 1",
        "--max-batch-size", 8, "--max-queue-delay", 200, "--instances", 2, "--gpus", "0,1",
    )  # fmt: skip
    assert result.code == 0
    assert result.out.split() == [str(repository / "fill"), "tensorrt_plan"]
    assert "note: NOT compared with its graph" in result.err
    config = parsed(repository / "fill" / "config.pbtxt")
    (group,) = config.instance_group
    assert (group.count, list(group.gpus), list(group.profile)) == (2, [0, 1], ["1", "2"])
    assert config.max_batch_size == 8
    assert config.dynamic_batching.max_queue_delay_microseconds == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-batch-size", 0), "--max-batch-size"),
        (("--gpus", "one"), "Invalid value for --gpus: found 'one'; needed numbers from 0"),
        (("--profiles", "-1"), "Invalid value for --profiles: found '-1'; needed numbers from"),
        (("--profiles", "7"), "found --profiles 7"),
        (("--name", "a/b"), "found the model name 'a/b'"),
        (("--threads", "2"), "this one runs on a GPU"),
    ],
)
def test_wrong_uses_exit_2_and_write_nothing(
    run: Run, plan_engine: MakePlan, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    result = run("triton-repo", plan_engine(), "-o", tmp_path / "repo", *arguments)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "repo").exists()


def test_what_is_no_engine_exits_5(run: Run, tmp_path: Path) -> None:
    result = run("triton-repo", tmp_path / "none.engine", "-o", tmp_path / "repo")
    assert result.code == 5
    assert "does not exist" in result.err
    assert not (tmp_path / "repo").exists()


def test_the_help_fits_into_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("triton-repo", "--help")
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 80
    assert "…" not in result.out
    for option in ("output", "name", "max-batch-size", "max-queue-delay", "instances", "gpus",
                   "threads", "profiles", "overwrite"):  # fmt: skip
        assert f"--{option}" in result.out
