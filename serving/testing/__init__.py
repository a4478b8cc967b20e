"""Doubles that ship with the code: hand clock, streams made of numbers, mutants, the simulator."""
