"""Metrics of the field, one file a family; each says which library it is equal to."""
