"""Adapters to the outside: each is the only importer of its library. They import the base layer only."""
