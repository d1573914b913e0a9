"""`python -m smt_plugin` is `smt`."""

from smt_plugin.cli.app import main

if __name__ == "__main__":
    main()
