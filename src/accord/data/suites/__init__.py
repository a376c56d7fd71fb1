"""Suites of prompts for red-teaming: what should be refused, and what only looks like it."""
