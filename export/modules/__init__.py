"""Networks that users bring as Python code: made, given weights, tried out, taken to operators."""
