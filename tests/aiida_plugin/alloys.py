"""Alloys that EMT knows, as candidates of the workflows, in place of DFT's oxides."""

from ase.build import bulk

METALS = ("Ni", "Al", "Cu")


def alloys(n):
    """So many different cells of four atoms by id; every fourth is more strained."""
    made = {}
    for k in range(n):
        atoms = bulk("Ni", cubic=True, a=3.6 + 0.02 * (k % 5))
        atoms.symbols = [METALS[(k // 3**i) % 3] for i in range(4)]
        atoms.rattle(0.02, seed=k)
        made[f"a{k}"] = atoms
    return made
