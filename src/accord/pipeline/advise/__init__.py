"""`accord advise`: which method, or none, for the data, reward, model and machine at hand."""
