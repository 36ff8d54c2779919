"""The version of toolenv; it is written into every record."""

__version__ = "0.1.0"
