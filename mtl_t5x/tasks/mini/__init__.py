"""The embedded benchmark: GLUE's and DecaNLP's tasks made by rules, and its vocabulary.

May import what tasks share.
"""
