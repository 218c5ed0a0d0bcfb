"""DecaNLP: its tasks, prompts, files, answers and metrics.

May import what tasks share, tasks.mini, and data.
"""
