"""Audits: one question about a model or a reward, answered by a number and a verdict."""
