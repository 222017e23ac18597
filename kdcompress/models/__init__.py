"""Networks by name, their taps, their weights on disk and their deployable form."""
