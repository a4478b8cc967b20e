"""Kinds of steps, one file each, found by name: each has a module value `KIND` (serving.pipelines.items.Kind)."""
