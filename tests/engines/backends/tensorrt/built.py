"""What the TensorRT backend records of an engine, without building one."""

from collections.abc import Sequence

from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.options import PlanDetails, TensorRtOptions
from pconv_deploy.engines.base import Built
from pconv_deploy.engines.manifest import Manifest
from pconv_deploy.engines.shapes import Profile

DEFAULTS = TensorRtOptions()


def built_of(options: TensorRtOptions = DEFAULTS, profiles: Sequence[Profile] = ()) -> Built:
    """Record what `TensorRtBackend.build` records of an fp16 engine."""
    details = PlanDetails(options=options, build_seconds=1.0)
    return Built(
        profiles=tuple(profiles),
        weights_missing=options.strip_weights,
        later_releases=options.version_compatible,
        details=details.to_json(),
    )


def options_of(manifest: Manifest) -> TensorRtOptions:
    """Return the options that an engine was built with."""
    return TensorRtBackend().recorded_options(manifest.engine)
