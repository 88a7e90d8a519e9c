"""Which graphs are kept and which are tried: no GPU is needed to say."""

from typing import Any

import pytest

from pconv_deploy.engines.backends.tensorrt.graphs import (
    IDLE_RUNS,
    MOST_ATTEMPTS,
    MOST_GRAPHS,
    Captured,
    GraphCache,
)


class Graph:
    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def cache() -> GraphCache:
    return GraphCache()


def run(cache: GraphCache, key: Any) -> str:
    """As a worker does, whose captures succeed."""
    if cache.find(key):
        return "graph"
    if not cache.lacks(key):
        return "direct"
    cache.keep(key, Captured(Graph(), None))  # type: ignore[arg-type]
    return "captured"


def test_the_first_run_captures_and_the_others_use_it(cache: GraphCache) -> None:
    assert [run(cache, "a") for _ in range(3)] == ["captured", "graph", "graph"]


def test_what_comes_in_a_circle_beyond_the_bound_is_not_captured_again_and_again(
    cache: GraphCache,
) -> None:
    found = []
    for _ in range(IDLE_RUNS // MOST_GRAPHS + 2):
        found = [run(cache, key) for key in range(MOST_GRAPHS + 4)]
    assert found == ["graph"] * MOST_GRAPHS + ["direct"] * 4


def test_what_nobody_asks_for_makes_room(cache: GraphCache) -> None:
    for key in range(MOST_GRAPHS):
        run(cache, key)
    unused = cache.find(0)
    assert unused
    for _ in range(IDLE_RUNS - 1):
        for key in (1, 2):
            run(cache, key)
    assert [run(cache, "new") for _ in range(3)] == ["captured", "graph", "graph"]
    assert [run(cache, key) for key in (1, 2)] == ["graph"] * 2
    assert not unused.graph.closed  # type: ignore[attr-defined]  # it was used after 3, 4, ...
    for key in range(100, 100 + MOST_GRAPHS - 3):
        assert run(cache, key) == "captured"
    assert unused.graph.closed  # type: ignore[attr-defined]


def test_a_few_failures_are_forgiven(cache: GraphCache) -> None:
    lasts = []
    while cache.lacks("a"):
        cache.find("a")
        lasts.append(cache.fail("a"))
    assert lasts == [False] * (MOST_ATTEMPTS - 1) + [True]
    assert cache.find("a") is None


def test_a_graph_may_be_captured_after_a_failure(cache: GraphCache) -> None:
    cache.fail("a")
    assert [run(cache, "a") for _ in range(2)] == ["captured", "graph"]


def test_closing_destroys_all(cache: GraphCache) -> None:
    found = []
    for key in range(3):
        run(cache, key)
        found.append(cache.find(key))
    cache.fail("x")
    cache.close()
    assert all(each and each.graph.closed for each in found)  # type: ignore[attr-defined]
    assert cache.find(0) is None
