"""Parse --module without importing torch."""

from pconv_deploy.errors import UsageError


def parse_factory(factory: str) -> tuple[str, str]:
    """Split "package.module:name" into module and name.

    Raises:
        UsageError: malformed.
    """
    place, _, name = factory.partition(":")
    if not all(part.isidentifier() for part in (*place.split("."), *name.split("."))):
        raise UsageError(
            f"found --module {factory!r}; needed PACKAGE.MODULE:FACTORY, such as my.nets:make_unet"
        )
    return place, name
