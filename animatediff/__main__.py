"""`python -m animatediff`, the same as the `animatediff` command."""

from animatediff.commands import main

if __name__ == "__main__":
    main()
