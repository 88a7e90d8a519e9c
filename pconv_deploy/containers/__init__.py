"""A folder that a container is built from: an engine, its runtime alone, and how it is served."""
