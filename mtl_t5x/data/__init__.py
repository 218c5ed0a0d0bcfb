"""From SeqIO names to one batch of every task: lookup, examples and their counts, heads' targets.

Knows SeqIO and task names only; of the other wings it imports `storage.files` alone.
"""
