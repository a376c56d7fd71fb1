"""`accord probe`: what a reward makes of answers that were changed without a reason to."""
