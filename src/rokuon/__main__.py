"""`python -m rokuon`: the same as the `rokuon` command."""

from rokuon.cli import main

if __name__ == "__main__":
    main()
