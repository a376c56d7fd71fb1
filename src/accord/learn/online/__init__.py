"""Methods that learn from scores of their own responses: PPO, GRPO and related methods."""
