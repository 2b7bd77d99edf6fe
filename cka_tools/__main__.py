"""`python -m cka_tools` is `cka`."""

from cka_tools.terminal.app import main

if __name__ == "__main__":
    main()
