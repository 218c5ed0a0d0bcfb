r"""python -m mtl_t5x.export --gin_file=gin/examples/mini_glue_text_to_text.gin \
    --gin.MODEL_DIR=\"/tmp/run\" --output=/tmp/exported [--layout=t5x]
"""

from mtl_t5x import main

if __name__ == "__main__":
    main.start("--run_mode=export")
