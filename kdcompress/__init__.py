"""kdcompress: distil a vision model, export it, and measure every file that ships."""

__version__ = "0.1.0"
