"""Images and points with their labels: the data sets that classifiers are trained on."""
