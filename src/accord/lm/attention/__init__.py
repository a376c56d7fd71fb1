"""Attention over packed batches with shared prompts, and over growing responses."""
