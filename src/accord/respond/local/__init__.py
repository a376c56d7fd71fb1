"""The local sampling engine: prompts are computed once, responses are batched continuously."""
