"""The photos and the trained network that come with the package."""
