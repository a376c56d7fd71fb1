"""From text to tokens: chat templates, limits, and a report of what was dropped."""
