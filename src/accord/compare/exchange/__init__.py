"""Preferences into a store from files of other tools, and out of it."""
