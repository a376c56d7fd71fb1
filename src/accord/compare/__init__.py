"""Who prefers what: verdicts of people, judges and reward models, and the store that keeps them."""
