"""A study's runs: which a config spans, where each runs, its process, and who hands them out.

Imports no JAX but in a worker, by the program that it runs. May import runtime and storage.
"""
