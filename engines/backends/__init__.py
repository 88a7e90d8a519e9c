"""One module per runtime; `pconv_deploy.engines.registry` lists them."""
