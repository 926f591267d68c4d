"""``python -m loader`` is ``python run.py``."""

from .cli.main import main

if __name__ == "__main__":
    main()
