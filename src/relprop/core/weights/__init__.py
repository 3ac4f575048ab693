"""What derives from the weights of a model alone, kept as long as the weights are the same."""
