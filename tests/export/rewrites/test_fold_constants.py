"""What is constant, equal or unread goes; what a graph promises its callers stays."""

import numpy as np

from tests.graphs.small_graphs import IMAGE, after, graph, photos, same, weights

RNG = np.random.default_rng(9)
FEEDS = photos(2, 4, 5)


def test_constant_equal_and_unread_nodes_go() -> None:
    model = graph(
        IMAGE,
        "float[N,3,H,W] y",
        """scaled = Mul (w, w)
        a = Conv (x, scaled)
        b = Conv (x, scaled)
        unread = Relu (b)
        y = Add (a, b)""",
        w=weights(RNG, 3, 3, 1, 1),
    )
    outcome = after("fold-constants", model)
    assert [site.place for site in outcome.sites] == ["3 of 5 nodes"]
    assert outcome.nodes == {"Conv": 1, "Add": 1}
    same(model, outcome.after, FEEDS)


def test_equal_outputs_keep_both_their_names() -> None:
    model = graph(IMAGE, "float[N,3,H,W] y, float[N,3,H,W] z", "y = Relu (x) z = Relu (x)")
    same(model, after("fold-constants", model).after, FEEDS)


def test_where_nothing_goes_there_is_no_place() -> None:
    model = graph(IMAGE, "float[N,3,H,W] y", "y = Mul (x, hole_mask)")
    assert after("fold-constants", model).sites == ()
