"""Rules over a run's metrics that say, in words, what goes wrong."""
