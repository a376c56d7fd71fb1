"""accord from Python: what `import accord` gives a notebook or another program."""
