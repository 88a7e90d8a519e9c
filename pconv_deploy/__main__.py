"""`python -m pconv_deploy` is `pconv-deploy`."""

from pconv_deploy.cli.main import main

main()
