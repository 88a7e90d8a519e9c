"""Exact rewrites of an exported graph: the same function with less work.

`pipeline.REWRITES` lists them in order. Each is one file: the formula, why it is true, and one
function that goes over the graph and says of every place whether it fired or why it refused.
"""
