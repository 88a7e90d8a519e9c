"""ONNX graphs: read untrusted files, run and edit graphs. No torch."""
