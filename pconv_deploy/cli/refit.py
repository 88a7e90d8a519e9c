"""`pconv-deploy refit`."""

from pathlib import Path

from rich.markup import escape

from pconv_deploy.cli.console import ERR, OUT, print_result, steps, typed_command
from pconv_deploy.cli.options import OptionalOutput, Overwrite
from pconv_deploy.errors import needs


def refit(
    engine: Path, checkpoint: Path, output: OptionalOutput = None, overwrite: Overwrite = False
) -> None:
    """Swap the weights of a TensorRT engine, without building it anew.

    The checkpoint is exported as the engine's graph was, verified against PyTorch as any export
    is, and its weights take the place of those in the engine, which is then compared with the
    graph. That needs the GPU. The checkpoint must be of the same network, seeing its images
    the same way; from an exported graph the weights come without PyTorch.

    Options:
        engine: TensorRT engine built with --refit or --strip-weights.
        checkpoint: Checkpoint of the same network, or its exported ONNX file.
        output: Engine folder to create. Default: replace ENGINE.
    """
    with needs("pconv-deploy[onnxruntime]"):
        from pconv_deploy.commands import refit as refitting
        from pconv_deploy.engines.base import RefittableBackend
        from pconv_deploy.engines.manifest import describe_parity
        from pconv_deploy.engines.refit import RefitRequest
        from pconv_deploy.engines.registry import backend_named

    request = RefitRequest(
        engine=engine,
        weights=checkpoint,
        output=output or engine,
        overwrite=overwrite,
        command=typed_command(),
    )
    with steps() as progress:
        manifest = refitting.refit(request, progress)
    built, source = manifest.built_with, manifest.contract.source
    runtime = built.runtime().describe()
    print_result(request.output, f"{runtime}, {manifest.precision}, weights of {source.file}")
    OUT.print(f"verified: {escape(describe_parity(manifest))}")
    backend = backend_named(manifest.backend)
    if isinstance(backend, RefittableBackend) and backend.why_not_refit(manifest.engine):
        ERR.print("note: the weights of this engine cannot be swapped again", markup=False)
