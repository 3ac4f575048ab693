"""The paper's tables and figures, from one command each, with any model and data instead of its own."""
