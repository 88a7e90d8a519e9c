"""The inpainting network: layers, U-Net, literal reference, ordinary convolutions."""
