"""Implementation of the commands build-engine, infer, inspect, doctor and refit."""
