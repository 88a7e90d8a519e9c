"""A software bill of materials: CycloneDX 1.6, JSON."""

from collections.abc import Collection, Sequence
from importlib.metadata import Distribution

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from pconv_deploy.engines.manifest import Manifest


def bill_of_materials(
    name: str, manifest: Manifest, files: Collection[str], packages: Sequence[Distribution]
) -> str:
    """List an engine's files with their hashes, and Python packages with their licences.

    Args:
        name: of image and engine.
        manifest: the engine's.
        files: those of the engine that are in the image.
        packages: all of the image, the first is ours.

    Base image and system libraries are not in it: they are not known before the image is built.
    """
    bom = Bom()
    container = Component(name=name, version=packages[0].version, type=ComponentType.CONTAINER)
    engine = Component(
        name=f"{name}.engine",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        description=f"{manifest.backend}, {manifest.precision}",
        components=[
            Component(
                name=file,
                type=ComponentType.FILE,
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=written.sha256)],
            )
            for file, written in {**manifest.files, **manifest.kept}.items()
            if file in files
        ],
    )
    bom.metadata.component = container
    parts = [engine, *(_component(package) for package in packages)]
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(container, parts)
    return JsonV1Dot6(bom).output_as_string(indent=1)


def _component(package: Distribution) -> Component:
    name = package.metadata["Name"]
    fields = package.metadata.json
    said = str(fields.get("license_expression") or fields.get("license") or "")
    classifiers = fields.get("classifier", ())
    listed = [text.split(" :: ")[-1] for text in classifiers if text.startswith("License :: ")]
    # Some packages have the whole text where others have the name.
    text = said if said and "\n" not in said else " and ".join(listed)
    return Component(
        name=name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=PackageURL(type="pypi", name=name.lower(), version=package.version),
        licenses=[_licence(text)] if text else (),
    )


def _licence(text: str) -> License:
    """Return it by its SPDX identifier or expression, or as text where it is neither."""
    return LicenseFactory().make_from_string(text)
