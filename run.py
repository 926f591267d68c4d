"""Loads a checkpoint as a config says: ``python run.py --help``."""

from loader.cli.main import main

if __name__ == "__main__":
    main()
