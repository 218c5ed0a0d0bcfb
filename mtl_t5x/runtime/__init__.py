"""What watches a run and what it tells: limits, SIGTERM, metrics, the examples seen.

May import storage and conflict.
"""
