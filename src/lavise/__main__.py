"""`python -m lavise`: the command line."""

from lavise.flows.command_line.commands import main

if __name__ == "__main__":
    main()
