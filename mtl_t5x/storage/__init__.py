"""Checkpoints, their hashes, and folders of this machine or of object storage.

Imports no other wing.
"""
