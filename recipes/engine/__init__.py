"""What runs a recipe: training, evaluation, checkpoints, the run directory."""
