"""Where arrays live: the mesh, several processes, and what a compiled program sends.

May import storage, runtime, data and conflict.
"""
