"""T5 and the three architectures on one shared encoder; losses, decoding, pretrained weights.

May import gradients.probes, parallel, storage, runtime, data and conflict.
"""
