"""Numbers as the report's page and tables write them."""

from mtl_t5x.report import findings

UNDEFINED = "–"


def number(value: float | None, form: str = ".2f") -> str:
    """A number in Python's format `form` with a true minus sign; what rounds to 0 has no sign."""
    if value is None:
        return UNDEFINED
    text = format(value, form)
    if not text.strip("+-0.%"):
        text = text.strip("+-")
    return text.replace("-", "−")


def interval(estimate: findings.Estimate, form: str = ".2f") -> str:
    """The ends of an estimate's interval, or nothing where it has none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{number(estimate.low, form)}, {number(estimate.high, form)}]"


def estimate(value: findings.Estimate, form: str = ".2f") -> str:
    """An estimate with its interval, where it has one."""
    return f"{number(value.value, form)} {interval(value, form)}".strip()


def variant(names: findings.Variant) -> str:
    """A variant's name."""
    return " · ".join(names)


def file_name(text: str) -> str:
    """A name that a file may have anywhere."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)
