"""The mathematics of alignment: pure functions over tensors, no files, no models."""
