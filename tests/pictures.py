"""Pictures of a training without the second that drawing them takes, which is longer than most trainings of the tests.

The figures are made each time; what is written is the picture that was drawn first under the same file name. Those of
``tests/plotting`` are all drawn.
"""

from pathlib import Path

from cgcnn_ase.plotting import model_plots

NAMES = ("learning_curve", "parity", "calibration", "domain", "confusion", "reliability")


class Pictures:
    """In place of ``model_plots.save``."""

    def __init__(self, drawn=()):
        self.draw = model_plots.save
        self.drawn = dict(drawn)
        self.all = False

    def __call__(self, figure, path):
        path = Path(path)
        if self.all or path.suffix != ".png" or path.stem not in NAMES or path.name not in self.drawn:
            self.draw(figure, path)
            self.drawn.setdefault(path.name, path.read_bytes())
        else:
            path.write_bytes(self.drawn[path.name])
        return path


def blank() -> dict[str, bytes]:
    """An empty picture for each name."""
    from io import BytesIO

    figure, _ = model_plots.new_figure(1)
    figure.savefig(file := BytesIO())
    return {f"{name}.png": file.getvalue() for name in NAMES}
