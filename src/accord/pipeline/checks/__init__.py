"""The checks of `accord data check`: rows are read one at a time, and findings name rows."""
