"""Training: where checkpoints come from. So far the paper's loss."""
