"""`python -m daemon`: the same command line as the `factd` script."""

from daemon.cli.main import main

if __name__ == "__main__":
    main()
