"""What a task is called in metrics, tables and figures."""


def short(name: str) -> str:
    """`<benchmark>_<task>.<prompt>.<labels>` is called `<task>`; any other name stays as it is."""
    first, *variant = name.split(".")
    return first.split("_", 1)[-1] if variant else name
