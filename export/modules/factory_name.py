"""What --module names, read before anything heavy is imported."""

from pconv_deploy.errors import UsageError


def parse_factory(factory: str) -> tuple[str, str]:
    """Read "package.module:name": the module, and the name in it.

    Raises:
        UsageError: it is not written like that.
    """
    place, _, name = factory.partition(":")
    if not all(part.isidentifier() for part in (*place.split("."), *name.split("."))):
        raise UsageError(
            f"found --module {factory!r}; needed PACKAGE.MODULE:FACTORY, such as my.nets:make_unet"
        )
    return place, name
