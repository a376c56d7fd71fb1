"""`accord audit`: a model before and after training, compared by everything that may go wrong."""
