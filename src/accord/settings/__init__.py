"""Settings of every stage and method, the files they are read from, and the errors about them."""
