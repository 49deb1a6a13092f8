"""Commands that ask: they read ledger and versions and change nothing."""
