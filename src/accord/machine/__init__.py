"""This machine: what is installed, what works when it is tried, what would make it faster."""
