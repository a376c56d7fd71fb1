"""What a run came to: results.json, a table for the terminal, and one self-contained page."""
