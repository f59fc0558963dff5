"""Training: step, optimiser, schedule, precision; checkpoints, and how a run goes on from one."""
