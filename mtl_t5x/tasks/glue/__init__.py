"""GLUE: its tasks and their prompts.

May import what tasks share, tasks.mini, and data.
"""
