"""The page's tables for papers: LaTeX with the package booktabs."""

import jinja2

from mtl_t5x.report import typeset

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "ρ": r"$\rho$",
    "–": "--",
    "·": r"$\cdot$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def render(table: typeset.Table) -> str:
    r"""A table as a `tabular`, to be put in a paper by \input.

    Its caption is a comment: a paper has its own.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mtl_t5x.report"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["tex"] = escape
    return environment.get_template("table.tex").render(table=table)
