"""Layer-wise relevance propagation through residual networks, with books that balance."""
