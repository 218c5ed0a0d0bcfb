"""The benchmarks as SeqIO tasks, and what they share: sources, prompts, metrics, the registry.

May import data, and no JAX. The library never imports it: gin files and configs do.
"""
