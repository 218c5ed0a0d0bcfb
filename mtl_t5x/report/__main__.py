"""The report of a study, as far as it has come; of runs that are no study; or of two studies.

    python -m mtl_t5x.report --workdir=DIR
    python -m mtl_t5x.report --runs=RUN,RUN,… --workdir=DIR
    python -m mtl_t5x.report --workdir=DIR --compare=OTHER

The first two write DIR/report/, the last one DIR/compared_with_<OTHER's name>/.
"""

import sys
from collections.abc import Sequence

from absl import app, flags
from etils import epath

from mtl_t5x.report import folders, gathered, report


def main(argv: Sequence[str]) -> int:
    """Writes the report that the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    workdir = epath.Path(values.workdir)
    try:
        if values.runs and values.compare:
            raise ValueError("--runs and --compare can't be given together")
        if values.runs:
            written = report.write(gathered.of_runs(values.runs), workdir / "report")
        elif values.compare:
            studies = map(folders.load_study, (workdir, values.compare))
            folder = workdir / f"compared_with_{epath.Path(values.compare).name}"
            written = report.write(gathered.compared(*studies), folder)
        else:
            written = report.write_report(workdir)
    except (FileNotFoundError, ValueError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print(written)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The study's folder; what is written goes there.")
    flags.DEFINE_list("runs", [], "Run folders to report on, in place of a study's.")
    flags.DEFINE_string("compare", None, "The folder of another study, to compare this one with.")
    flags.mark_flag_as_required("workdir")
    app.run(main)
