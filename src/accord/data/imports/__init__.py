"""Rows of other tools, with their annotators' opinions, for a preference store."""
