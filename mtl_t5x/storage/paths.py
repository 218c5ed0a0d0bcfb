"""Folders by name: of this machine, or of object storage as gs://BUCKET/FOLDER."""

from __future__ import annotations

from etils import epath


def absolute(path: epath.PathLike) -> epath.Path:
    """As orbax and TensorStore want paths; epath's own `absolute` makes gs:// a local folder."""
    path = epath.Path(path)
    return path if path.is_absolute() else path.resolve()
