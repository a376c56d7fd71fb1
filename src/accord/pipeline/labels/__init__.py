"""`accord label`: judges' verdicts on the pairs of responses in a store."""
