"""The core: capture, rules, splits, ledger. It imports torch and the standard library only."""
