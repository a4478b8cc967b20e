"""Recipes that made tests/data/golden: independent runs of the original models, done once, outside our environment."""
