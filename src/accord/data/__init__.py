"""Files and hub data sets of every format people have, read into records and written back."""
