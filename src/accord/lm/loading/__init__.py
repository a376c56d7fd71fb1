"""Model folders: what they must have, how they are read, and how they are written."""
