"""Quality of fills: the paper's table for checkpoints, engines and baselines."""
