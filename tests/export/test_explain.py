from pathlib import Path

import msgspec
import pytest

from pconv_deploy.export.explain import counted_size
from pconv_deploy.graphs.file import read_graph


@pytest.mark.parametrize(
    ("multiple", "side"), [(1, 512), (16, 512), (24, 504), (10, 510), (300, 600), (1024, 1024)]
)
def test_work_is_counted_at_a_size_that_the_graph_takes(
    graph: Path, multiple: int, side: int
) -> None:
    contract = msgspec.structs.replace(read_graph(graph).contract, size_multiple=multiple)
    assert counted_size(contract) == (side, side)
