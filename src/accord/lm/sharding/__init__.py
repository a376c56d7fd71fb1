"""Models whose weights are divided among the processes of a run (FSDP2)."""
