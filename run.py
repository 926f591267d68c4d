"""Loads a checkpoint as a config says: ``python run.py --help``."""

from loader.cli import main

if __name__ == "__main__":
    main()
