"""What is to be done about an engine that cannot be used, by the message that says so."""

from pathlib import Path

import pytest

from pconv_deploy.cli.remedies import command_line, explain
from pconv_deploy.engines.backends.onnxruntime.cpu import OnnxRuntimeBackend
from pconv_deploy.engines.folder import open_engine
from pconv_deploy.engines.manifest import read_manifest, rebuild
from pconv_deploy.engines.proof import check_machine
from pconv_deploy.errors import EngineError
from tests.engines.test_engine_folder import edit_manifest
from tests.engines.test_engine_folder import own as own  # a fixture


def test_a_file_of_an_engine_points_to_its_folder(own: Path) -> None:
    with pytest.raises(EngineError, match=rf"the engine is the folder {own}$"):
        open_engine(own / "model.onnx")


def test_what_builds_a_damaged_engine_again(own: Path) -> None:
    assert command_line(rebuild(read_manifest(own), own)) == f"pconv-deploy build-engine {own}"
    # It may be a copy: where it was built there may be another engine.
    edit_manifest(own, command="pconv-deploy build-engine 'my model.onnx' -o x.engine --overwrite")
    (own / "graph.onnx").unlink()
    typed = "pconv-deploy build-engine 'my model.onnx' -o x.engine"
    assert command_line(rebuild(read_manifest(own), own)) == typed
    edit_manifest(own, command="")
    assert command_line(rebuild(read_manifest(own), own)) == (
        f"pconv-deploy build-engine model.onnx -o {own} --backend onnxruntime --precision fp32"
    )


def test_weights_that_were_left_out_are_put_in_not_rebuilt(own: Path) -> None:
    edit_manifest(own, engine={"weights_missing": True})
    with pytest.raises(EngineError) as caught:
        check_machine(own, read_manifest(own), OnnxRuntimeBackend())
    assert explain(caught.value) == (
        f"{own} was built without its weights.\n"
        f"  Put them in: pconv-deploy refit {own} tiny.safetensors -o new.engine"
    )
