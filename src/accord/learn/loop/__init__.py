"""The one optimiser loop and what surrounds it: schedule, optimiser, checkpoints, processes."""
