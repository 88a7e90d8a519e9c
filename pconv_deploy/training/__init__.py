"""Training: where checkpoints come from."""
