"""The whole way once, on photos that come with the package."""
