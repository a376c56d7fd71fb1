"""From text to tokens: chat templates, length limits, and a report of dropped rows."""
