"""How good the fills are: the paper's table for checkpoints, engines and baselines."""
