"""From a study's run folders to tables, figures and one page.

Imports storage.files alone, and no JAX.
"""
