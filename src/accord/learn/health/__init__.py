"""Rules over a run's metrics that describe, in words, what goes wrong."""
