"""The command line: each command parses its arguments, calls one function, and prints."""

from accord.cli.entry import main

__all__ = ["main"]
