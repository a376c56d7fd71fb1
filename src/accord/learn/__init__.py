"""Learning: one optimiser loop, a literal table of methods, and reinforcement learning."""
