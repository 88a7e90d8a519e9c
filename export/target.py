"""The target of an export: a network, its facts and the reference it is compared with."""

from dataclasses import dataclass

from torch import nn

from pconv_deploy.checkpoints.native import Checkpoint
from pconv_deploy.contract import Normalisation, Source
from pconv_deploy.network.architectures import literal_network


@dataclass(frozen=True, kw_only=True)
class ExportTarget:
    """A network in two forms that share no arithmetic.

    Both take image (N, 3, H, W), normalised, and known (N, 1, H, W) of 0 and 1, H and W multiples
    of `size_multiple`, and return (N, 3, H, W), normalised.

    traced          what is exported: its partial convolutions become single nodes
    reference       what the graph is compared with, in any precision; in evaluation mode
    reference_name  for the report
    in_double       whether the reference can be computed in double precision
    notes           for the user
    """

    traced: nn.Module
    reference: nn.Module
    reference_name: str
    normalisation: Normalisation
    size_multiple: int
    source: Source
    in_double: bool = True
    notes: tuple[str, ...] = ()


def target_of(checkpoint: Checkpoint) -> ExportTarget:
    """Make the target of a checkpoint; its reference is the literal network."""
    return ExportTarget(
        traced=checkpoint.model,
        reference=literal_network(checkpoint.model).eval(),
        reference_name="the literal network",
        normalisation=checkpoint.normalisation,
        size_multiple=checkpoint.model.config.size_multiple,
        source=checkpoint.source,
    )
