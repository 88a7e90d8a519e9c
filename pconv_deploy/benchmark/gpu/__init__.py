"""`make gpu-report`: everything there is, timed on this machine's NVIDIA GPU."""
