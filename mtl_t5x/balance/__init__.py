"""What to do about conflict: weights of the tasks from their losses or their Gram matrix, and
rates.

May import gradients, parallel, storage, runtime, data and conflict.
"""
