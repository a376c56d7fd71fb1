"""Faster replacements for parts of a transformers model, with equal results."""
