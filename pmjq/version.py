"""Which pmjq this is."""

VERSION = "0.1.0"
