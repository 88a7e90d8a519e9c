"""What is to be done about an engine that cannot be used, by the message that says so."""

from pathlib import Path

import pytest

from pconv_deploy.engines.backends.onnxruntime.cpu import OnnxRuntimeBackend
from pconv_deploy.engines.folder import open_engine
from pconv_deploy.engines.manifest import read_manifest, rebuild_command
from pconv_deploy.engines.proof import check_machine
from pconv_deploy.errors import EngineError
from tests.engines.test_engine_folder import edit_manifest
from tests.engines.test_engine_folder import own as own  # a fixture


def test_a_file_of_an_engine_points_to_its_folder(own: Path) -> None:
    with pytest.raises(EngineError, match=rf"the engine is the folder {own}$"):
        open_engine(own / "model.onnx")


def test_a_damaged_copy_is_rebuilt_where_it_is(own: Path) -> None:
    command = "pconv-deploy build-engine 'my model.onnx' -o x.engine --overwrite"
    moved = f"pconv-deploy build-engine 'my model.onnx' -o {own} --overwrite"
    for recorded, told in (
        (command, moved),
        (f"{command} && pconv-deploy refit x.engine b.onnx --overwrite",
         f"{moved} && pconv-deploy refit {own} b.onnx --overwrite"),
        ("pconv-deploy refit a.engine b.onnx -o x.engine --overwrite",
         f"pconv-deploy refit a.engine b.onnx -o {own} --overwrite"),
        ("made by 'hand", "made by 'hand"),
    ):  # fmt: skip
        edit_manifest(own, command=recorded, kept={})
        assert rebuild_command(read_manifest(own), own) == told


def test_weights_that_were_left_out_are_put_in_not_rebuilt(own: Path) -> None:
    edit_manifest(own, engine={"weights_missing": True})
    with pytest.raises(EngineError) as caught:
        check_machine(own, read_manifest(own), OnnxRuntimeBackend())
    assert str(caught.value) == (
        f"{own} was built without its weights.\n"
        f"  Put them in: pconv-deploy refit {own} tiny.safetensors -o new.engine"
    )
