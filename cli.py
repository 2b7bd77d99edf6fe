"""`python cli.py …` is `cka …`, from a checkout."""

from cka_tools.terminal.app import main

if __name__ == "__main__":
    main()
