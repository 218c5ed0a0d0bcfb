"""From a study's run folders to tables, figures and one page.

Stands alone, and imports no JAX.
"""
