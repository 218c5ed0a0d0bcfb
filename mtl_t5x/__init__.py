"""Multi-task T5 training in JAX with the conflict between the tasks measured in the train step."""

import os

# TensorFlow only reads data here; what it logs of GPUs at start-up would hide a run's own words.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
