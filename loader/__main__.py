"""``python -m loader`` is ``python run.py``."""

from loader.cli.main import main

if __name__ == "__main__":
    main()
