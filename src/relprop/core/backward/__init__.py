"""The backward pass: its plan, the relevance that is pending in it, and the ledger of what each step got and sent."""
