"""What a run may be told: settings, the files they are read from, and every error told well."""
