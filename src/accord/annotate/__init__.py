"""The annotation page: people compare, rank and label responses, and the store has every vote."""
