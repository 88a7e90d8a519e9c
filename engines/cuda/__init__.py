"""NVIDIA GPUs through cuda-python: devices, memory, streams, graphs and other people's arrays."""
