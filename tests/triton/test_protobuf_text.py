from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pconv_deploy.triton.protobuf_text import Message, Name, entries, to_text


def read(message: Message) -> Any:
    return text_format.Parse(to_text(message), model_config_pb2.ModelConfig())


def test_every_kind_of_field_is_read_as_it_was_meant() -> None:
    config = read(
        {
            "name": "a",
            "max_batch_size": 8,
            "input": [
                {"name": "x", "data_type": Name("TYPE_UINT8"), "dims": [-1, 3]},
                {"name": "y", "optional": True},
            ],
            "optimization": {"cuda": {"graphs": True, "busy_wait_events": False}},
            "dynamic_batching": {},
            "metric_tags": entries({"k": "v", "l": "w"}),
        }
    )
    assert (config.name, config.max_batch_size) == ("a", 8)
    assert [tensor.name for tensor in config.input] == ["x", "y"]
    assert list(config.input[0].dims) == [-1, 3]
    assert config.input[0].data_type == model_config_pb2.TYPE_UINT8
    assert [tensor.optional for tensor in config.input] == [False, True]
    assert config.optimization.cuda.graphs
    assert not config.optimization.cuda.busy_wait_events
    assert config.HasField("dynamic_batching")
    assert dict(config.metric_tags) == {"k": "v", "l": "w"}


def test_repeated_fields_without_elements_are_left_out() -> None:
    assert to_text({"instance_group": [{"count": 1, "gpus": [], "profile": ()}]}) == (
        "instance_group {\n  count: 1\n}\n"
    )


@pytest.mark.parametrize(
    "text", ["", 'a "b"', "a\\n\n\t\0", "Größe 画像 🖼", "it's {x: 1} # no comment", "\x7f\x80"]
)
def test_any_text_is_read_back_as_it_was(text: str) -> None:
    written = to_text({"name": text})
    assert written.isascii()
    assert written.count("\n") == 1
    assert read({"name": text}).name == text


def test_names_of_files_that_are_no_unicode_do_no_harm() -> None:
    assert read({"name": "a\udcffb"}).name == "a?b"
