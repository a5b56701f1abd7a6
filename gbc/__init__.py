"""Generator Born from Classifier (Yu & Wang, NeurIPS 2023): the method."""
