"""AI judges at OpenAI-compatible endpoints: requests, questions, cached answers, verdicts."""
