"""From the Gram matrix of the task gradients to metrics: arrays in, arrays out.

Imports no other wing.
"""
