"""Best-of-N on any engine: N candidates, a reward, the best."""
