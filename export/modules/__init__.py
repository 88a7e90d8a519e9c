"""Networks that users bring as Python code: create, load weights, probe, insert operators."""
