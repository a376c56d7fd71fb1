"""Methods that learn from rows: SFT, reward models, and preference optimisation."""
