"""Attention over packed batches with shared prompts, and over responses being sampled."""
