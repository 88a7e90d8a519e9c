"""A load on `pconv-deploy serve` that checks every answer, and what serving adds to an engine.

python -m pconv_deploy.serving.load ENGINE -o load.json

The server, the bare engine and the clients are processes of their own, on this machine.
"""
