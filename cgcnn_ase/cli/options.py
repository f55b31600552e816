"""Options that more than one command has."""

from typing import Annotated

import typer

#: here in words, as help text must not import the networks
PRESET_NAMES = "cgcnn-2018, cgcnn-2018-eq4, cgnn, cgcnn-defects-max, alignn or alignn-small"

Targets = Annotated[
    list[str] | None,
    typer.Option(help="Column to learn, where there are several; may be given several times. NAME:classification."),
]
Task = Annotated[str, typer.Option(help="regression, classification, or multi: the last column has classes.")]
Unit = Annotated[str, typer.Option(help="Unit of the target.")]
Val = Annotated[
    float | None, typer.Option(help="Part for validation, where the data set has no split.  [default: 0.1]")
]
Test = Annotated[float | None, typer.Option(help="Part for the test, where the data set has no split.  [default: 0.1]")]
Fidelity = Annotated[
    str | None,
    typer.Option(help="Whose values of vacancy-formation-energy: witman, kumagai, jarvis or chgnet."),
]
Elements = Annotated[
    list[str] | None,
    typer.Option(help="Element whose sites are taken; all by default. May be given several times."),
]
Dopants = Annotated[
    list[str] | None,
    typer.Option(help="Element to put in, on sites or between them. May be given several times."),
]
