"""Measures of response texts: diversity, length, refusals."""
