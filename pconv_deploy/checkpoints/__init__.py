"""Read checkpoints: ours, and those of other projects."""
