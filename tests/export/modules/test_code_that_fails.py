"""Whatever a user's module raises, and wherever, is one error that says where."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pconv_deploy.errors import ModuleError, OutputError, ParityError
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions
from pconv_deploy.export.module_to_onnx import ModuleRequest, export_module
from tests.export.modules.conftest import Offer

SMALL = ExportOptions(batch=1, size=(16, 16))


class Fine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        output: Tensor = self.conv(image * mask)
        return output


class Copied(Fine):
    def __deepcopy__(self, memo: object) -> Any:
        raise KeyError("copied")


class Trained(Fine):
    def train(self, _mode: bool = True) -> Any:
        raise TypeError("trained")


class Stated(Fine):
    def state_dict(self, *_args: Any, **_named: Any) -> Any:
        raise OSError("no state")


class Listed(Fine):
    def parameters(self, _recurse: bool = True) -> Any:
        raise IndexError("no parameters")


class Leaves(Fine):
    def forward(self, _image: Tensor, _mask: Tensor) -> Tensor:
        sys.exit(0)


class LeavesWhenTraced(Fine):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            sys.exit(0)
        return super().forward(image, mask)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Copied, "KeyError: 'copied'"),
        (Trained, "TypeError: trained"),
        (Stated, "OSError: no state"),
        (Listed, "IndexError: no parameters"),
        (Leaves, "SystemExit: 0"),
        (LeavesWhenTraced, "SystemExit: 0"),
    ],
)
def test_one_error_with_the_line(
    offer: Offer, tmp_path: Path, module: type[Fine], message: str
) -> None:
    with pytest.raises(ModuleError) as raised:
        export_module(ModuleRequest(factory=offer(module)), tmp_path / "x.onnx", SMALL)
    assert message in str(raised.value)
    assert "test_code_that_fails.py, line" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for output in (tmp_path / "file" / "x.onnx", tmp_path / f"{'x' * 300}.onnx"):
        with pytest.raises(OutputError, match="cannot write"):
            export_module(ModuleRequest(factory="nowhere:make"), output)


class Different(Fine):
    def forward(self, image: Tensor, _mask: Tensor) -> Tensor:
        return image * 2 if torch.compiler.is_exporting() else image


def test_a_rejected_graph_that_cannot_be_kept(offer: Offer, tmp_path: Path) -> None:
    (tmp_path / "x.rejected.onnx").mkdir()
    request = ModuleRequest(factory=offer(Different))
    with pytest.raises(
        ParityError, match=r"differs from .*\n.* nor was the graph kept: cannot write"
    ):
        export_module(request, tmp_path / "x.onnx", SMALL)
