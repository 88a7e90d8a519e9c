"""The small trained network that comes with the package; docs/demo-checkpoint.md says how."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from pconv_deploy.files import atomic_file

CAVEAT = (
    "The network is a small one (2.8 M parameters), trained for about an hour on two processor "
    "cores, on 17 photographs and on computed pictures; it never saw the photos below. It shows "
    "that everything works, not what the paper's network paints after ten days on a GPU."
)


def copy_network(path: Path) -> None:
    """Write the checkpoint to `path`.

    Raises:
        OutputError: not writable.
    """
    resource = files("pconv_deploy.assets").joinpath("weights", "compact.safetensors")
    with as_file(resource) as stored, atomic_file(path) as partial:
        shutil.copyfile(stored, partial)
