"""Sampling engines: prompts in, K responses to each out."""
