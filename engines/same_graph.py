"""Which graphs differ in nothing but their weights, as far as their contracts tell."""

from collections.abc import Iterator

from pconv_deploy.contract import GraphContract, Normalisation, Source, UNetConfig


def differences(found: GraphContract, needed: GraphContract) -> list[str]:
    """What keeps the weights of one graph out of an engine of another, a line each."""
    return [*_shape(found, needed), *_network(found.source, needed.source), *_ends(found, needed)]


def network_differences(found: UNetConfig, needed: UNetConfig) -> list[str]:
    """Where two networks differ: by levels, outermost first, counted from 1."""
    lines = []
    if found.levels != needed.levels:
        lines.append(f"found {found.levels} levels, needed {needed.levels}")
    for what in ("channels", "kernels"):
        pairs = zip(getattr(found, what), getattr(needed, what), strict=False)
        lines += [
            f"{what} of level {level}: found {one}, needed {other}"
            for level, (one, other) in enumerate(pairs, 1)
            if one != other
        ]
    for what in ("convolution", "head"):
        one, other = getattr(found, what), getattr(needed, what)
        if one != other:
            lines.append(f"{what}: found {one}, needed {other}")
    return lines


def normalisation_differences(found: Normalisation, needed: Normalisation) -> list[str]:
    """How two networks see their images differently."""
    if found == needed:
        return []
    return [
        f"normalisation: found mean {found.mean}, std {found.std}; "
        f"needed mean {needed.mean}, std {needed.std}"
    ]


def _shape(found: GraphContract, needed: GraphContract) -> Iterator[str]:
    if found.kind != needed.kind:
        yield f"found a {found.kind} graph, needed a {needed.kind} graph"
    if (found.batch, found.size) != (needed.batch, needed.size):
        yield f"found {found.describe_shapes()}; needed {needed.describe_shapes()}"
    if found.precision != needed.precision:
        yield f"exported in {found.precision}, needed {needed.precision}"
    if found.rewrites != needed.rewrites:
        names = (", ".join(rewrites) or "none" for rewrites in (found.rewrites, needed.rewrites))
        yield "rewrites: found {}; needed {}".format(*names)


def _network(found: Source, needed: Source) -> list[str]:
    if found.network and needed.network:
        return network_differences(found.network, needed.network)
    if (found.network, found.module) == (needed.network, needed.module):
        return []
    return [f"found {found.describe_network()}; needed {needed.describe_network()}"]


def _ends(found: GraphContract, needed: GraphContract) -> Iterator[str]:
    if found.size_multiple != needed.size_multiple:
        yield f"sides: found multiples of {found.size_multiple}, needed {needed.size_multiple}"
    yield from normalisation_differences(found.normalisation, needed.normalisation)
