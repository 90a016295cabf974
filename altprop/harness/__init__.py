"""The Lightning harness: blocks of steps, budget, evaluation grid, checkpoints and failures."""
