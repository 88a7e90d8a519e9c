"""Plans that are exchanged before they are loaded, and plans that open on another GPU."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from pconv_deploy.engines.backends.tensorrt import session
from pconv_deploy.engines.base import Gpu
from pconv_deploy.engines.cuda import devices
from pconv_deploy.engines.folder import build_engine, open_engine
from pconv_deploy.engines.manifest import describe
from tests.engines.backends.tensorrt.test_acceptance import OPTIONS, Machine, layer
from tests.engines.backends.tensorrt.test_acceptance import machine as machine  # a fixture

OTHER = Gpu(name="NVIDIA L4", compute_capability="8.9", memory=1, driver="1", cuda="13.0")


def test_the_plan_that_is_loaded_is_the_one_that_was_checked(
    machine: Machine, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(layer("CaskConvolution", "Half"))
    build_engine(graph, tmp_path / "x.engine", OPTIONS)
    path, loaded = tmp_path / "x.engine" / "engine.plan", []
    content, genuine = path.read_bytes(), session.TensorRtSession

    def swapped_when_hashed(read: bytes) -> Any:
        if read == content:
            path.write_bytes(b"another plan")
        return describe(read)

    def open_session(library: ModuleType, plan: bytes, *options: Any, **more: Any) -> Any:
        loaded.append(plan)
        return genuine(library, plan, *options, **more)

    monkeypatch.setattr("pconv_deploy.engines.integrity.describe", swapped_when_hashed)
    monkeypatch.setattr(session, "TensorRtSession", open_session)
    open_engine(tmp_path / "x.engine")[1].close()
    assert loaded == [content]
    assert path.read_bytes() == b"another plan"


def test_a_plan_for_several_gpus_proves_itself_on_another(
    machine: Machine, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(layer("CaskConvolution", "Half"))
    assert OPTIONS.backend_options is not None
    portable = msgspec.structs.replace(OPTIONS.backend_options, hardware_compatibility="ampere+")
    options = replace(OPTIONS, backend_options=portable)
    engine = tmp_path / "x.engine"
    build_engine(graph, engine, options)
    open_engine(engine)[1].close()
    assert not (engine / "proofs.json").exists()
    monkeypatch.setattr(devices, "current_gpu", lambda: OTHER)
    open_engine(engine)[1].close()
    assert "NVIDIA L4" in (engine / "proofs.json").read_text()
