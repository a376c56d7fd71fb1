"""The stages of a recipe, one function each."""
