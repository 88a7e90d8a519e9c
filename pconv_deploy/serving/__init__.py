"""A server that fills holes over HTTP, and the page to paint them on.

from pconv_deploy.serving import ServingOptions, create_app

app = create_app({"photos": "model.engine"})  # an ASGI application, to be run or mounted
"""

from pconv_deploy.errors import needs

with needs("pconv-deploy[serve]", what="the server"):
    from pconv_deploy.serving.app import create_app
from pconv_deploy.serving.options import ServingOptions

__all__ = ["ServingOptions", "create_app"]
