"""Rewards: models, ensembles, rules, functions and judges, summed to one score a response."""
