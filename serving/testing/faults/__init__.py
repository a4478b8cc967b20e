"""Real processes on a real broker, struck by real signals, and what must hold afterwards (docs/faults.md).

The roles are the product's own, wired by `serving.roles.main`; only the model is a stub that reads numbers from
pictures, and the mixer's drawing writes down what it was given.
"""
