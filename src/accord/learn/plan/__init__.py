"""The memory of a training run, computed before it: role by role, and at the peak of its phases."""
