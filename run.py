"""Loads a checkpoint as a config says: ``python run.py --help``."""

from hydra_loader import main

if __name__ == "__main__":
    main()
