"""The codes that a run's process leaves with, so that a scheduler knows when to start it again."""

# A failure, as a full disk or a loss that is no number.
FAILED = 1
# Settings that can't work, or data that they don't fit.
SETTINGS = 2
# Told to stop (SIGTERM, Ctrl-C), and saved: started again, it goes on.
TOLD_TO_STOP = 42
# A stage hung: started again, it goes on from the last checkpoint.
HANGS = 43
# Ctrl-C where nothing was to be saved, or a second one, after which nothing is.
INTERRUPTED = 130
