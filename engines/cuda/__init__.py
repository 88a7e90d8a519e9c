"""NVIDIA's driver: its calls, and the GPU of this machine."""
