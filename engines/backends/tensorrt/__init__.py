"""TensorRT engines: how they are built, and how they are run on a GPU."""
