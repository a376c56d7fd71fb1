"""`accord chat`: talk with a model in the terminal, or with two side by side, blind."""
