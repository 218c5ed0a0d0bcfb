"""Multi-task T5 training in JAX with the conflict between the tasks measured in the train step."""
