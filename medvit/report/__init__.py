"""Reports that are read by people: the quality of a data set, and the evaluation of a model."""
