"""From YAML and the command line to checked settings: lines, suggestions, other tools' names."""
