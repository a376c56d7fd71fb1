"""`accord plan`: what a recipe or a stage would do and need, before it runs."""
