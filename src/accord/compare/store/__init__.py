"""The preference store: all SQL of the project, on SQLite or PostgreSQL."""
