"""The proof of a judge on people's verdicts: asked, measured, reported and recorded."""
