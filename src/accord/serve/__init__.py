"""`accord serve`: a model over HTTP, as OpenAI's clients speak to one."""
