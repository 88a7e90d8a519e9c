"""Memory, streams, graphs and arrays on the GPU, through cuda-python."""
