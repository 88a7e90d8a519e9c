"""Expecting an error as the command line shows it, with the command that mends it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pconv_deploy.cli.remedies import explain
from pconv_deploy.errors import PConvError


@contextmanager
def explained(kind: type[PConvError], match: str) -> Iterator[pytest.ExceptionInfo[PConvError]]:
    """As `pytest.raises`, but `match` is searched for in message and command together."""
    with pytest.raises(kind) as caught:
        yield caught
    assert re.search(match, explain(caught.value), re.DOTALL), explain(caught.value)
