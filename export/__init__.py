"""Export a checkpoint or a module to a verified ONNX file."""
