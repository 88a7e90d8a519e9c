"""The inpainting networks: layers, U-Nets, literal references, the table of architectures."""
