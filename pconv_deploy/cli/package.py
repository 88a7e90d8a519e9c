"""`pconv-deploy package`."""

from pconv_deploy.cli.console import ERR, print_result
from pconv_deploy.cli.options import Engine, Output, Overwrite
from pconv_deploy.errors import needs


def package(
    engine: Engine, output: Output, name: str | None = None, overwrite: Overwrite = False
) -> None:
    """Write what a container image of an engine is built from.

    Writes a Dockerfile, pinned requirements with the engine's runtime alone, manifests for
    Kubernetes, a bill of materials and licences. The image serves the engine, or runs any other
    command that needs no PyTorch, such as infer.

    Options:
        output: Folder to write.
        name: Name of image and engine. Default: the engine folder's name without its suffix.
    """
    with needs("pconv-deploy[package]", what="package"):
        from pconv_deploy.containers.folder import write_package

    written = write_package(engine, output, name=name, overwrite=overwrite)
    print_result(written.folder, f"{written.packages} packages pinned")
    for note in written.notes:
        ERR.print(f"note: {note}", markup=False)
