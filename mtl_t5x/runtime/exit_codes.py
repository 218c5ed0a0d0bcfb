"""The codes that a run's process leaves with, so that a scheduler knows when to start it again."""

# Told to stop (SIGTERM), and saved: started again, it goes on.
TOLD_TO_STOP = 42
# A stage hung: started again, it goes on from the last checkpoint.
HANGS = 43
