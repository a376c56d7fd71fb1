"""A model at another OpenAI-compatible server as an engine."""
