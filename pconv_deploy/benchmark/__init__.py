"""Measure engines and PyTorch side by side."""
