"""Attacks of red-teaming: transforms of a conversation, and scripts of several turns."""
