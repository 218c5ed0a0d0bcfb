"""From SeqIO names to one batch of every task: lookup, examples and their counts, heads' targets.

Knows SeqIO and task names only; imports no other wing.
"""
