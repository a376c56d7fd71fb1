"""The command line: it parses, calls one function, and prints."""

from accord.cli.entry import main

__all__ = ["main"]
