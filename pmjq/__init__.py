"""pmjq runs the executables that people put in a directory."""

__version__ = "0.1.0"
