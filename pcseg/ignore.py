"""The one sentinel of labels, in a module of its own: what needs no torch (preparing data) does not wait for it."""

IGNORE = -1
"""No supervision here: unannotated, or void in the data set."""
