"""`python -m router` and the console script."""

from router.cli.main import main

if __name__ == "__main__":
    main()
