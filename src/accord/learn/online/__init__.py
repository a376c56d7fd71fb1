"""Methods that learn from scores of their own responses: PPO, GRPO, RLOO and their kin."""
