"""The engine: per-task gradients and their Gram matrix in one pass; knows no model and no task.

May import parallel, storage, runtime, data and conflict.
"""
