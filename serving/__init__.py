"""Everything a running Lockstep process imports. Nothing below this package imports torch."""

__version__ = "0.1.0"
