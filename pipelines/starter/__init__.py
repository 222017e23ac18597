"""A first recipe for a folder of photos: looked at, chosen, measured on this machine and predicted."""
