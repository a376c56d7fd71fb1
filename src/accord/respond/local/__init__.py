"""The local sampling engine: each prompt is read once, responses are batched continuously."""
