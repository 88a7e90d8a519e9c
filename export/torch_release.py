"""The releases of torch that the exporter was tried with."""

import logging

import torch

_LOG = logging.getLogger(__name__)
# The tests of exporter, layers and importers passed under each; docs/formats.md lists them.
OLDEST_TRIED, NEWEST_TRIED = (2, 11), (2, 14)


def warn_if_untried() -> None:
    """Warn, once an export, if another release of torch is installed."""
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if not OLDEST_TRIED <= release <= NEWEST_TRIED:
        oldest, newest = (".".join(map(str, tried)) for tried in (OLDEST_TRIED, NEWEST_TRIED))
        _LOG.warning(
            "torch %s is installed; exporting was tried with %s to %s only. The graph is compared "
            "with PyTorch all the same before it is kept",
            torch.__version__,
            oldest,
            newest,
        )
