"""`python -m mtl_t5x.report --workdir=DIR`: the report of a study, as far as it has come."""

import sys
from collections.abc import Sequence

from absl import app, flags

from mtl_t5x.report import report


def main(argv: Sequence[str]) -> int:
    """Writes the report of the study in --workdir."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    try:
        print(report.write_report(flags.FLAGS.workdir))
    except (FileNotFoundError, ValueError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The study's folder.", required=True)
    app.run(main)
