"""Defects of the rows of a data set, computed from texts and numbers alone."""
