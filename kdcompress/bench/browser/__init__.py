"""The page that measures: what it is given, what it posts, and the server between it and this machine."""
