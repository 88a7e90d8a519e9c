"""Exact rewrites of an exported graph: the same function with less work.

`pipeline.REWRITES` lists them in order. Each is one file: the formula, why it is true, and a
function that returns every place it considered, with the reason where it refused.
"""
