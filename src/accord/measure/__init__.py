"""Measures of a model: ratings, win rates, over-optimisation, diversity and refusals.

Pure functions over records, numbers and texts; no model is loaded here.
"""
