"""The steps of a run, one file each: what it depends on, its key, and what it does."""
