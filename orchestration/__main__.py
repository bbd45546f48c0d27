"""``python -m orchestration`` is ``headrace``."""

from orchestration.cli import main

if __name__ == "__main__":
    main()
