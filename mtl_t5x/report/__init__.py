"""From a study's run folders to tables, figures and one page.

Imports storage.files, and of tasks the metrics alone; no JAX.
"""
