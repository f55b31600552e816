"""Puts the pretrained models into the wheel as ``cgcnn_ase/pretrained``, and leaves them in place for a checkout."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PretrainedModels(BuildHookInterface):  # type: ignore[type-arg]
    """Copies ``pretrained/`` into a real wheel only: an editable install reads the folder of its checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before each build; ``version`` is "standard" or "editable"."""
        models = Path(self.root) / "pretrained"
        if version == "editable":
            return
        for file in sorted(models.glob("*/*")):
            if file.is_file():
                build_data["force_include"][str(file)] = f"cgcnn_ase/pretrained/{file.parent.name}/{file.name}"
