"""Faults that a plant meets while images flow: each one function of a `Scene`, which it leaves as it found it."""
