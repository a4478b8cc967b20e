"""Model specs (YAML), labels, architectures, and importers that bring real weights out of public packages.

`serving` never imports this package; the command line names what it needs as `module:function`.
"""
