"""Language models: load and save, text to tokens, packing, and the shared-prefix forward pass."""
