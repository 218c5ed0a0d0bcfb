"""From the Gram matrix of the task gradients to numbers: arrays in, arrays out.

Imports no other wing.
"""
