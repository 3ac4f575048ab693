"""Which rule each step of a network takes: composites, the named ones, and those that suit a family of networks."""
