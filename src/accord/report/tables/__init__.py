"""The report's tables, as data that the templates lay out."""
