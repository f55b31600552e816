"""``python -m cgcnn_ase.cli``."""

from cgcnn_ase.cli import main

if __name__ == "__main__":
    main()
