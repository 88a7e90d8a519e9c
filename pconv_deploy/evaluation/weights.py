"""Files of weights that some metrics need. Nothing is ever downloaded."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pconv_deploy.errors import InputError
from pconv_deploy.files import sha256_of

# Where packages that may be installed keep LPIPS's weights of VGG-16's channels.
_LPIPS_PACKAGES = (
    ("lpips", "weights/v0.1/vgg.pth"),
    ("torchmetrics", "functional/image/lpips_models/vgg.pth"),
)


@dataclass(frozen=True)
class WeightFiles:
    """Paths of weights; None omits the metrics that need them."""

    vgg16: Path | None = None
    lpips_heads: Path | None = None
    inception: Path | None = None

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file, by its name here."""
        return {name: sha256_of(path) for name, path in vars(self).items() if path is not None}


def located(files: WeightFiles) -> WeightFiles:
    """Add LPIPS's heads from an installed package, where they are needed and not given.

    Raises:
        InputError: a file is missing, or no package has the heads.
    """
    for path in (files.vgg16, files.lpips_heads, files.inception):
        if path is not None and not path.is_file():
            raise InputError(f"{path} does not exist; needed a file of weights")
    if files.vgg16 is None or files.lpips_heads is not None:
        return files
    for package, inside in _LPIPS_PACKAGES:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(folder, inside)).is_file():
                return WeightFiles(files.vgg16, path, files.inception)
    raise InputError(
        "LPIPS needs the weights of its channels beside VGG-16's: give lpips' "
        "weights/v0.1/vgg.pth as --lpips-heads, or pip install torchmetrics, which holds it"
    )
