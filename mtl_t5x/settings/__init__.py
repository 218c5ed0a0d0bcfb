"""What a user sets: the checks that every setting goes through, and how gin's words become ours.

Imports no other wing.
"""
